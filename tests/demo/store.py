"""boto3 as the pipeline uses it, with the ledger kept beside it and bytes counted on both ways."""

from __future__ import annotations

import hashlib
import io
import threading

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from tests.harness import boto3_client

from .ledger import Ledger

MIB = 1024 * 1024
RAW, PROCESSED, ARTEFACTS, CACHE = "raw", "processed", "artefacts", "cache"
BUCKETS = (RAW, PROCESSED, ARTEFACTS, CACHE)
# boto3's own multipart upload, in parts of 5 MiB so that a checkpoint has several.
TRANSFER = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=4)


class Store:
    """`retries` are boto3's own (`standard` mode): enough of them ride through a restart of the server."""

    def __init__(self, endpoint: str, ledger: Ledger, retries: int = 12) -> None:
        self.endpoint = endpoint
        self.ledger = ledger
        self.s3 = boto3_client(endpoint, retries=retries, connections=32)
        self.bytes_in = 0
        self.bytes_out = 0
        self.objects_in = 0
        self._lock = threading.Lock()

    def put(self, bucket: str, key: str, data: bytes, **more: object) -> None:
        """PutObject, or a multipart upload where it is large."""
        digest = hashlib.sha256(data).hexdigest()
        self.ledger.begin(bucket, key, digest, len(data))
        try:
            if len(data) >= TRANSFER.multipart_threshold:
                self.s3.upload_fileobj(io.BytesIO(data), bucket, key, Config=TRANSFER)
            else:
                self.s3.put_object(Bucket=bucket, Key=key, Body=data, **more)
        except ClientError as error:
            # Where keys are written once, a client's retry of its own write whose answer was cut off finds it done.
            if error.response["Error"]["Code"] != "PreconditionFailed" or self.get(bucket, key) != data:
                raise
        self.ledger.done(bucket, key, digest, len(data))
        self.count(sent=len(data))

    def count(self, sent: int = 0, received: int = 0) -> None:
        with self._lock:
            self.bytes_in += sent
            self.objects_in += 1 if sent else 0
            self.bytes_out += received

    def get(self, bucket: str, key: str) -> bytes:
        data = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        self.count(received=len(data))
        return data

    def delete(self, bucket: str, key: str) -> None:
        self.ledger.begin(bucket, key, None)
        self.s3.delete_object(Bucket=bucket, Key=key)
        self.ledger.done(bucket, key, None)

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]
