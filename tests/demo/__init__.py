"""`make demo`: a real training pipeline over S3, through kill -9, without one acknowledged byte lost."""
