"""Run by test_other_clients.py with boto3 1.34: the daily round of a client from before default checksums."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, bucket = sys.argv[1:3]
assert boto3.__version__.startswith("1.34."), boto3.__version__
for signature in ("s3v4", "s3", None):
    s3 = boto3.client("s3", endpoint_url=endpoint, config=Config(signature_version=signature, s3={"addressing_style": "path"}))
    s3.put_object(Bucket=bucket, Key="small", Body=b"body", Metadata={"a": "1"}, Tagging="t=1")
    assert s3.get_object(Bucket=bucket, Key="small")["Body"].read() == b"body"
    s3.put_object(Bucket=bucket, Key="sum", Body=b"body", ChecksumAlgorithm="SHA256")
    assert s3.head_object(Bucket=bucket, Key="sum", ChecksumMode="ENABLED")["ChecksumSHA256"]
    data = os.urandom(12 * 1024 * 1024 + 5)
    s3.upload_fileobj(io.BytesIO(data), bucket, "large", Config=TransferConfig(multipart_threshold=5 * 1024 * 1024, multipart_chunksize=5 * 1024 * 1024))
    back = io.BytesIO()
    s3.download_fileobj(bucket, "large", back)
    assert hashlib.sha256(back.getvalue()).digest() == hashlib.sha256(data).digest()
    s3.copy({"Bucket": bucket, "Key": "large"}, bucket, "copy")
    assert s3.head_object(Bucket=bucket, Key="copy")["ContentLength"] == len(data)
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "small"})
    assert urllib.request.urlopen(url).read() == b"body"
    put = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "by url"})
    urllib.request.urlopen(urllib.request.Request(put, data=b"by url", method="PUT", headers={"Content-Type": ""}))
    names = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert names == ["by url", "copy", "large", "small", "sum"], names
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": name} for name in names]})  # with Content-MD5
    assert "Contents" not in s3.list_objects(Bucket=bucket)
    try:
        s3.get_object(Bucket=bucket, Key="small")
        raise AssertionError("what was deleted is still there")
    except ClientError as refused:
        assert refused.response["Error"]["Code"] == "NoSuchKey"
print("fine")
