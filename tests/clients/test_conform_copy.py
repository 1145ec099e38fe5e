"""Copies: of objects, of versions, of ranges into parts; what they keep, what they replace, when they are refused."""

from __future__ import annotations

import datetime
import urllib.parse

import pytest

from tests.harness import Content, Server, boto3_client
from tests.harness.failure import failure

MIB = 1024 * 1024
PART = 5 * MIB


@pytest.fixture
def source(s3, bucket):
    s3.put_object(Bucket=bucket, Key="source", Body=b"body", ContentType="text/bla", Metadata={"a": "1"}, Tagging="t=1")
    return {"Bucket": bucket, "Key": "source"}


def test_what_a_copy_keeps(s3, bucket, source):
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source)
    got = s3.get_object(Bucket=bucket, Key="copy")
    assert (got["Body"].read(), got["ContentType"], got["Metadata"], got["TagCount"]) == (b"body", "text/bla", {"a": "1"}, 1)
    s3.copy(source, bucket, "managed")
    assert s3.head_object(Bucket=bucket, Key="managed")["ContentType"] == "text/bla"


def test_what_a_copy_replaces(s3, bucket, source):
    new = {"MetadataDirective": "REPLACE", "Metadata": {"b": "2"}, "ContentType": "audio/mpeg"}
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, TaggingDirective="REPLACE", Tagging="u=2", **new)
    head = s3.head_object(Bucket=bucket, Key="copy")
    assert (head["ContentType"], head["Metadata"]) == ("audio/mpeg", {"b": "2"})
    assert s3.get_object_tagging(Bucket=bucket, Key="copy")["TagSet"] == [{"Key": "u", "Value": "2"}]
    s3.copy_object(Bucket=bucket, Key="source", CopySource=source, **new)
    assert s3.head_object(Bucket=bucket, Key="source")["Metadata"] == {"b": "2"}
    s3.copy_object(Bucket=bucket, Key="source", CopySource=source, StorageClass="STANDARD_IA")
    head = s3.head_object(Bucket=bucket, Key="source")
    assert (head["StorageClass"], head["Metadata"]) == ("STANDARD_IA", {"b": "2"})
    # The class is the copy's own: without one it is STANDARD again.
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source)
    assert "StorageClass" not in s3.head_object(Bucket=bucket, Key="copy")


def test_what_is_refused(s3, bucket, source):
    to = {"Bucket": bucket, "Key": "copy"}
    assert failure(s3.copy_object, Bucket=bucket, Key="source", CopySource=source) == (400, "InvalidRequest")
    assert failure(s3.copy_object, **to, CopySource={"Bucket": bucket, "Key": "none"}) == (404, "NoSuchKey")
    assert failure(s3.copy_object, **to, CopySource={"Bucket": bucket + "-fake", "Key": "x"}) == (404, "NoSuchBucket")
    assert failure(s3.copy_object, Bucket=bucket + "-fake", Key="x", CopySource=source) == (404, "NoSuchBucket")
    assert failure(s3.copy_object, **to, CopySource=source, MetadataDirective="MERGE") == (400, "InvalidArgument")
    assert failure(s3.copy_object, **to, CopySource=f"{bucket}/source?versionId=nonsense") == (400, "InvalidArgument")


def test_conditions_on_the_source(s3, bucket, source):
    etag = s3.head_object(**source)["ETag"]
    past, future = datetime.datetime(1994, 10, 29), datetime.datetime(2100, 10, 29)
    failed = (412, "PreconditionFailed")
    to = {"Bucket": bucket, "Key": "copy", "CopySource": source}
    for good in ({"CopySourceIfMatch": etag}, {"CopySourceIfNoneMatch": "ABCORZ"}, {"CopySourceIfModifiedSince": past}, {"CopySourceIfUnmodifiedSince": future}):
        s3.copy_object(**to, **good)
        assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == b"body"
    for bad in ({"CopySourceIfMatch": "ABCORZ"}, {"CopySourceIfNoneMatch": etag}, {"CopySourceIfUnmodifiedSince": past}):
        assert failure(s3.copy_object, **to, **bad) == failed, bad
    assert failure(s3.copy_object, **to, IfNoneMatch="*") == failed


@pytest.mark.parametrize("key", [" ", "_", "__", "?versionId", "a+b", "ü%20", "foo?bar", "a/b#c"])
def test_awkward_names(s3, raw, bucket, key):
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == key.encode()
    # The slash in front may be missing, the name wholly encoded.
    whole = urllib.parse.quote(f"/{bucket}/{key}", safe="")
    assert raw.request("PUT", bucket, "copy2", headers={"x-amz-copy-source": whole}).status == 200
    assert s3.get_object(Bucket=bucket, Key="copy2")["Body"].read() == key.encode()


def test_versions(s3, bucket, source):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    new = s3.put_object(**source, Body=b"new")["VersionId"]
    s3.copy_object(Bucket=bucket, Key="old", CopySource=source | {"VersionId": "null"})
    assert s3.get_object(Bucket=bucket, Key="old")["Body"].read() == b"body"
    said = s3.copy_object(Bucket=bucket, Key="new", CopySource=source | {"VersionId": new})
    assert (said["CopySourceVersionId"], said["VersionId"]) == (new, s3.head_object(Bucket=bucket, Key="new")["VersionId"])
    # An old version becomes the newest by a copy onto itself.
    s3.copy_object(**source, CopySource=source | {"VersionId": "null"})
    assert s3.get_object(**source)["Body"].read() == b"body"
    marker = s3.delete_object(**source)["VersionId"]
    assert failure(s3.copy_object, Bucket=bucket, Key="x", CopySource=source) == (404, "NoSuchKey")
    assert failure(s3.copy_object, Bucket=bucket, Key="x", CopySource=source | {"VersionId": marker}) == (400, "InvalidRequest")


def test_parts_by_copy(s3, bucket):
    data = Content(3, 2 * PART + 10).data()
    s3.put_object(Bucket=bucket, Key="source", Body=data)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="copy")["UploadId"]
    named = {"Bucket": bucket, "Key": "copy", "UploadId": upload, "CopySource": {"Bucket": bucket, "Key": "source"}}
    parts = []
    for number, (first, last) in enumerate([(0, PART - 1), (PART, 2 * PART - 1), (2 * PART, len(data) - 1)], 1):
        etag = s3.upload_part_copy(**named, PartNumber=number, CopySourceRange=f"bytes={first}-{last}")["CopyPartResult"]["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    for wrong in ("0-2", "bytes=0", "bytes=hello-world", "bytes=0-bar", "bytes=hello-", "bytes=0-2,3-5", "bytes=5-2"):
        assert failure(s3.upload_part_copy, **named, PartNumber=9, CopySourceRange=wrong) == (400, "InvalidArgument"), wrong
    assert failure(s3.upload_part_copy, **named, PartNumber=9, CopySourceRange=f"bytes=0-{len(data)}")[0] == 400
    s3.complete_multipart_upload(Bucket=bucket, Key="copy", UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == data
    whole = s3.create_multipart_upload(Bucket=bucket, Key="copy")["UploadId"]
    etag = s3.upload_part_copy(**(named | {"UploadId": whole}), PartNumber=1)["CopyPartResult"]["ETag"]
    s3.complete_multipart_upload(Bucket=bucket, Key="copy", UploadId=whole, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
    assert s3.head_object(Bucket=bucket, Key="copy")["ETag"].endswith('-1"')


def test_a_copy_of_parts_is_one_object(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="source")["UploadId"]
    etag = s3.upload_part(Bucket=bucket, Key="source", UploadId=upload, PartNumber=1, Body=b"parts")["ETag"]
    s3.complete_multipart_upload(Bucket=bucket, Key="source", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "source"})
    got = s3.get_object(Bucket=bucket, Key="copy")
    assert got["Body"].read() == b"parts" and "-" not in got["ETag"]


def test_a_copy_that_takes_long_is_answered_early():
    """With a short patience every larger copy takes long: the client reads white space, then the result or an error."""
    with Server(env={"GRANARY_S3_COPY_SILENCE_MS": "1"}) as server:
        s3 = boto3_client(server.start().endpoint)
        s3.create_bucket(Bucket="late")
        data = Content(5, 24 * MIB).data()
        s3.put_object(Bucket="late", Key="source", Body=data)
        said = s3.copy_object(Bucket="late", Key="copy", CopySource={"Bucket": "late", "Key": "source"})
        assert s3.head_object(Bucket="late", Key="copy")["ETag"] == said["CopyObjectResult"]["ETag"]
        assert s3.get_object(Bucket="late", Key="copy")["Body"].read() == data
