"""Quotas of buckets: set over the admin port, held for every way of writing."""

from __future__ import annotations

import json

from .test_boto3_core import error

FULL = (403, "QuotaExceeded")


def quota(server, *arguments):
    done = server.cli("bucket", "quota", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(server, bucket):
    return json.loads(quota(server, "show", bucket, "--json"))


def test_bytes(server, s3, bucket):
    quota(server, "set", bucket, "--bytes", "1MiB")
    put = lambda key, size: s3.put_object(Bucket=bucket, Key=key, Body=b"x" * size)  # noqa: E731
    put("a", 600_000)
    assert error(lambda: put("b", 600_000)) == FULL
    put("a", 1 << 20)
    assert shown(server, bucket) == {
        "bucket": bucket, "quota_bytes": 1 << 20, "quota_objects": None, "used_bytes": 1 << 20, "used_objects": 1,
    }  # fmt: skip
    copy = {"Bucket": bucket, "Key": "a"}
    assert error(lambda: s3.copy_object(Bucket=bucket, Key="b", CopySource=copy)) == FULL
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    part = {"Bucket": bucket, "Key": "m", "UploadId": upload, "PartNumber": 1}
    assert error(lambda: s3.upload_part(**part, Body=b"x")) == FULL
    assert error(lambda: s3.upload_part_copy(**part, CopySource=copy)) == FULL
    s3.delete_object(Bucket=bucket, Key="a")
    s3.upload_part(**part, Body=b"x" * 1000)
    assert shown(server, bucket)["used_bytes"] == 1000
    assert error(lambda: put("a", 1 << 20)) == FULL
    quota(server, "set", bucket, "--bytes", "none")
    put("a", 1 << 20)


def test_objects(server, s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    quota(server, "set", bucket, "--objects", "2")
    first = s3.put_object(Bucket=bucket, Key="a", Body=b"1")["VersionId"]
    s3.put_object(Bucket=bucket, Key="a", Body=b"2")
    assert error(lambda: s3.put_object(Bucket=bucket, Key="a", Body=b"3")) == FULL
    # A delete is never refused.
    s3.delete_object(Bucket=bucket, Key="a")
    assert shown(server, bucket)["used_objects"] == 3
    s3.delete_object(Bucket=bucket, Key="a", VersionId=first)
    assert error(lambda: s3.put_object(Bucket=bucket, Key="a", Body=b"3")) == FULL
    page = server.admin_get("/metrics")[1]
    assert f'granary_bucket_used{{bucket="{bucket}",unit="objects"}} 2' in page
    assert f'granary_bucket_quota{{bucket="{bucket}",unit="objects"}} 2' in page


def test_what_the_command_line_says(server, bucket):
    assert "0 B of no limit, 0 of 5 objects" in quota(server, "set", bucket, "--objects", "5")
    assert "0 B of 1.0 GiB, 0 of 5 objects" in quota(server, "set", bucket, "--bytes", "1GiB")
    wrong = server.cli("bucket", "quota", "show", "no-such-bucket")
    assert wrong.returncode == 1 and "no such bucket" in wrong.stderr
