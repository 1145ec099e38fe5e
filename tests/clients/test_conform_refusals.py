"""Every operation, refused: about a bucket that is not there, by nobody, and for an owner that it has not. `xtask compat` asks that each
operation of the front door is named here."""

from __future__ import annotations

import pytest

from tests.access.people import client
from tests.harness.failure import failure

# Method of boto3, and what it needs beside the bucket.
OPERATIONS = [
    ("create_session", {}),
    ("head_bucket", {}),
    ("get_bucket_location", {}),
    ("delete_bucket", {}),
    ("get_bucket_versioning", {}),
    ("put_bucket_versioning", {"VersioningConfiguration": {"Status": "Enabled"}}),
    ("put_object", {"Key": "k", "Body": b"x"}),
    ("copy_object", {"CopySource": "{bucket}/k", "Key": "k"}),
    ("get_object", {"Key": "k"}),
    ("head_object", {"Key": "k"}),
    ("get_object_attributes", {"Key": "k", "ObjectAttributes": ["ETag"]}),
    (
        "select_object_content",
        {
            "Key": "k",
            "Expression": "SELECT * FROM S3Object",
            "ExpressionType": "SQL",
            "InputSerialization": {"CSV": {}},
            "OutputSerialization": {"CSV": {}},
        },
    ),
    ("delete_object", {"Key": "k"}),
    ("delete_objects", {"Delete": {"Objects": [{"Key": "k"}]}}),
    ("list_objects", {}),
    ("list_objects_v2", {}),
    ("list_object_versions", {}),
    ("create_multipart_upload", {"Key": "k"}),
    ("upload_part", {"Key": "k", "PartNumber": 1, "UploadId": "00000000000000000000000000000000", "Body": b"x"}),
    ("upload_part_copy", {"CopySource": "{bucket}/k", "Key": "k", "PartNumber": 1, "UploadId": "00000000000000000000000000000000"}),
    ("complete_multipart_upload", {"Key": "k", "UploadId": "00000000000000000000000000000000", "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": "x"}]}}),
    ("abort_multipart_upload", {"Key": "k", "UploadId": "00000000000000000000000000000000"}),
    ("list_parts", {"Key": "k", "UploadId": "00000000000000000000000000000000"}),
    ("list_multipart_uploads", {}),
    ("get_object_tagging", {"Key": "k"}),
    ("put_object_tagging", {"Key": "k", "Tagging": {"TagSet": [{"Key": "a", "Value": "b"}]}}),
    ("delete_object_tagging", {"Key": "k"}),
    ("get_bucket_tagging", {}),
    ("put_bucket_tagging", {"Tagging": {"TagSet": [{"Key": "a", "Value": "b"}]}}),
    ("delete_bucket_tagging", {}),
    ("restore_object", {"Key": "k", "RestoreRequest": {"Days": 1}}),
    ("get_object_retention", {"Key": "k"}),
    ("put_object_retention", {"Key": "k", "Retention": {"Mode": "GOVERNANCE", "RetainUntilDate": "2040-01-01T00:00:00Z"}}),
    ("get_object_legal_hold", {"Key": "k"}),
    ("put_object_legal_hold", {"Key": "k", "LegalHold": {"Status": "ON"}}),
    ("get_object_lock_configuration", {}),
    ("put_object_lock_configuration", {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}}),
    ("get_bucket_acl", {}),
    ("put_bucket_acl", {"ACL": "private"}),
    ("get_object_acl", {"Key": "k"}),
    ("put_object_acl", {"Key": "k", "ACL": "private"}),
    ("get_bucket_policy", {}),
    ("get_bucket_policy_status", {}),
    ("get_bucket_cors", {}),
    ("get_bucket_lifecycle_configuration", {}),
    ("put_bucket_lifecycle_configuration", {"LifecycleConfiguration": {"Rules": [{"Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]}}),
    ("delete_bucket_lifecycle", {}),
    ("delete_bucket_website", {}),
    ("delete_bucket_replication", {}),
    ("list_bucket_analytics_configurations", {}),
    ("get_bucket_analytics_configuration", {"Id": "a"}),
    ("delete_bucket_analytics_configuration", {"Id": "a"}),
    ("list_bucket_inventory_configurations", {}),
    ("get_bucket_inventory_configuration", {"Id": "a"}),
    ("delete_bucket_inventory_configuration", {"Id": "a"}),
    ("list_bucket_metrics_configurations", {}),
    ("get_bucket_metrics_configuration", {"Id": "a"}),
    ("delete_bucket_metrics_configuration", {"Id": "a"}),
    ("list_bucket_intelligent_tiering_configurations", {}),
    ("get_bucket_intelligent_tiering_configuration", {"Id": "a"}),
    ("delete_bucket_intelligent_tiering_configuration", {"Id": "a"}),
    ("get_object_torrent", {"Key": "k"}),
    ("get_bucket_website", {}),
    ("get_bucket_replication", {}),
    ("get_bucket_encryption", {}),
    ("get_bucket_ownership_controls", {}),
    ("get_public_access_block", {}),
    ("get_bucket_logging", {}),
    ("put_bucket_logging", {"BucketLoggingStatus": {}}),
    ("get_bucket_notification_configuration", {}),
    ("put_bucket_notification_configuration", {"NotificationConfiguration": {}}),
    ("get_bucket_request_payment", {}),
    ("get_bucket_accelerate_configuration", {}),
    ("put_bucket_policy", {"Policy": "{}"}),
    ("delete_bucket_policy", {}),
    ("put_public_access_block", {"PublicAccessBlockConfiguration": {"BlockPublicAcls": True}}),
    ("delete_public_access_block", {}),
    ("put_bucket_ownership_controls", {"OwnershipControls": {"Rules": [{"ObjectOwnership": "ObjectWriter"}]}}),
    ("delete_bucket_ownership_controls", {}),
    ("put_bucket_request_payment", {"RequestPaymentConfiguration": {"Payer": "BucketOwner"}}),
    ("put_bucket_cors", {"CORSConfiguration": {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]}}),
    ("delete_bucket_cors", {}),
    ("put_bucket_encryption", {"ServerSideEncryptionConfiguration": {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}}),
    ("delete_bucket_encryption", {}),
]
# Without ExpectedBucketOwner, though about a bucket.
NO_OWNER = {"create_session", "list_bucket_intelligent_tiering_configurations", "get_bucket_intelligent_tiering_configuration", "delete_bucket_intelligent_tiering_configuration"}


def filled(arguments, bucket):
    return {name: value.replace("{bucket}", bucket) if isinstance(value, str) else value for name, value in arguments.items()}


@pytest.mark.parametrize(("method", "arguments"), OPERATIONS, ids=[name for name, _ in OPERATIONS])
def test_refused(server, s3, bucket, method, arguments):
    none = bucket[:50] + "-none"
    status, code = failure(getattr(s3, method), Bucket=none, **filled(arguments, bucket))
    assert (status, code) in ((404, "NoSuchBucket"), (404, "404")), "where there is no bucket"
    nobody = getattr(client(server, None), method)
    if method == "delete_objects":
        # Decided on key by key.
        assert [error["Code"] for error in nobody(Bucket=bucket, **arguments)["Errors"]] == ["AccessDenied"]
        return
    status, code = failure(nobody, Bucket=bucket, **filled(arguments, bucket))
    assert (status, code) in ((403, "AccessDenied"), (403, "403")), "to nobody"
    if method not in NO_OWNER:
        status, code = failure(getattr(s3, method), Bucket=bucket, ExpectedBucketOwner="1" * 12, **filled(arguments, bucket))
        assert (status, code) in ((403, "AccessDenied"), (403, "403")), "for another owner"


def test_what_is_about_no_bucket(server, s3, bucket):
    nobody = client(server, None)
    assert failure(nobody.list_buckets)[0] == 403
    assert failure(nobody.list_directory_buckets)[0] == 403
    assert failure(nobody.create_bucket, Bucket=bucket + "x") == (403, "AccessDenied")
    assert failure(s3.list_buckets, MaxBuckets=10_001) == (400, "InvalidArgument")
    assert failure(s3.create_bucket, Bucket="aa") == (400, "InvalidBucketName")
