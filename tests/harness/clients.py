"""Clients as their users set them up: nothing about them is changed but endpoint, keys and retries."""

from __future__ import annotations

import os

import boto3
from botocore.config import Config

from .server import ACCESS_KEY, REGION, SECRET_KEY


def boto3_client(
    endpoint: str,
    *,
    retries: int = 0,
    connections: int = 16,
    signature: str | None = None,
    addressing: str = "path",
    region: str = REGION,
    read_timeout: float = 60.0,
    **config: object,
):
    """A boto3 S3 client with current defaults (default checksums on). `retries` beyond the first try."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name=region,
        config=Config(
            signature_version=signature,
            retries={"total_max_attempts": retries + 1, "mode": "standard"},
            max_pool_connections=connections,
            connect_timeout=10,
            read_timeout=read_timeout,
            s3={"addressing_style": addressing},
            **config,
        ),
    )


def client_env(endpoint: str, **more: str) -> dict[str, str]:
    """The environment of a command-line client: this machine's own AWS settings are out of the way."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RCLONE_", "S3_"))}
    return kept | {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": endpoint,
        "S3_ENDPOINT_URL": endpoint,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    } | more
