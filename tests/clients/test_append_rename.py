"""Appends and renames as directory buckets have them: offsets, conditions, tokens, races, a kill in between."""

from __future__ import annotations

import concurrent.futures
import hashlib
import zlib

import pytest

from tests.harness import Content, Server, boto3_client

from .test_boto3_core import error


def append(s3, bucket, key, body, offset, **more):
    return s3.put_object(Bucket=bucket, Key=key, Body=body, WriteOffsetBytes=offset, **more)


def rename(s3, bucket, source, key, **more):
    return s3.rename_object(Bucket=bucket, Key=key, RenameSource=source, **more)


def read(s3, bucket, key, **more):
    return s3.get_object(Bucket=bucket, Key=key, **more)["Body"].read()


# Inline, copies, stripes, and what crosses from one to the other.
@pytest.mark.parametrize("sizes", [(5, 7, 9), (20_000, 3, 200_000), (0, 100_000, 1), (1_500_000, 1_500_000, 70_000)])
def test_appends_read_back_as_one(s3, bucket, sizes):
    whole, etags = b"", set()
    for n, size in enumerate(sizes):
        body = Content(n, size).data()
        done = append(s3, bucket, "k", body, len(whole))
        whole += body
        assert done["Size"] == len(whole)
        etags.add(done["ETag"])
        assert read(s3, bucket, "k") == whole
    assert len(etags) == 3
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head["ContentLength"] == len(whole) and head["ETag"] == done["ETag"]
    crc = __import__("base64").b64encode(zlib.crc32(whole).to_bytes(4, "big")).decode()
    assert head["ChecksumCRC32"] == crc and head["ChecksumType"] == "FULL_OBJECT"
    middle = len(whole) // 2
    part = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={middle - 2}-{middle + 2}")["Body"].read()
    assert part == whole[middle - 2 : middle + 3]
    assert [o["Size"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [len(whole)]


def test_the_offset_is_the_size(s3, bucket):
    assert error(lambda: append(s3, bucket, "k", b"x", 1)) == (404, "NoSuchKey")
    append(s3, bucket, "k", b"hello", 0)
    for offset in (0, 4, 6):
        assert error(lambda: append(s3, bucket, "k", b"x", offset)) == (400, "InvalidWriteOffset")
    etag = append(s3, bucket, "k", b" world", 5)["ETag"]
    assert error(lambda: append(s3, bucket, "k", b"x", 11, IfMatch='"' + "0" * 32 + '"')) == (412, "PreconditionFailed")
    append(s3, bucket, "k", b"!", 11, IfMatch=etag)
    assert read(s3, bucket, "k") == b"hello world!"
    assert append(s3, bucket, "k", b"", 12)["Size"] == 12


def test_attributes_stay(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"a", Metadata={"m": "1"}, ContentType="text/plain", Tagging="t=1")
    append(s3, bucket, "k", b"b", 1, Metadata={"m": "2"})
    head = s3.head_object(Bucket=bucket, Key="k")
    assert head["Metadata"] == {"m": "1"} and head["ContentType"] == "text/plain"
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "t", "Value": "1"}]


def test_checksums_of_appends(s3, bucket):
    s3.put_object(Bucket=bucket, Key="sha", Body=b"a", ChecksumAlgorithm="SHA256")
    assert error(lambda: append(s3, bucket, "sha", b"b", 1, ChecksumAlgorithm="CRC32"))[0] == 400
    append(s3, bucket, "sha", b"b", 1, ChecksumAlgorithm="SHA256")
    joined = hashlib.sha256(hashlib.sha256(b"a").digest() + hashlib.sha256(b"b").digest()).digest()
    head = s3.head_object(Bucket=bucket, Key="sha", ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"] == __import__("base64").b64encode(joined).decode() + "-2"
    assert error(lambda: append(s3, bucket, "sha", b"c", 2, ChecksumSHA256="A" * 43 + "="))[0] == 400
    assert read(s3, bucket, "sha") == b"ab"


def test_multipart_objects_grow_too(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    part = {"Bucket": bucket, "Key": "m", "UploadId": upload}
    bodies = [Content(n, 5 << 20).data() for n in range(2)]
    tags = [s3.upload_part(**part, PartNumber=n + 1, Body=body)["ETag"] for n, body in enumerate(bodies)]
    parts = {"Parts": [{"PartNumber": n + 1, "ETag": tag} for n, tag in enumerate(tags)]}
    s3.complete_multipart_upload(**part, MultipartUpload=parts)
    append(s3, bucket, "m", b"tail", 10 << 20)
    assert read(s3, bucket, "m") == b"".join(bodies) + b"tail"
    answer = s3.get_object(Bucket=bucket, Key="m", PartNumber=3)
    assert answer["Body"].read() == b"tail" and answer["PartsCount"] == 3
    s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "m"})
    assert read(s3, bucket, "c") == b"".join(bodies) + b"tail"


def test_versioned_buckets_take_neither(s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert error(lambda: append(s3, bucket, "k", b"y", 1)) == (409, "InvalidBucketState")
    assert error(lambda: rename(s3, bucket, "k", "l")) == (409, "InvalidBucketState")


def test_of_many_appends_at_one_offset_one_wins(server, bucket):
    clients = [boto3_client(server.endpoint) for _ in range(8)]
    append(clients[0], bucket, "k", b"", 0)
    size = 0
    for step in range(6):
        def attempt(n, at=size):
            try:
                return append(clients[n], bucket, "k", bytes([n]) * 1000, at)["Size"]
            except clients[n].exceptions.ClientError as failed:
                assert failed.response["Error"]["Code"] in ("InvalidWriteOffset", "ConditionalRequestConflict"), failed
                return None
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            won = [done for done in pool.map(attempt, range(8)) if done is not None]
        assert won == [size + 1000]
        size += 1000
    whole = read(clients[0], bucket, "k")
    assert len(whole) == 6000 and all(len(set(whole[n : n + 1000])) == 1 for n in range(0, 6000, 1000))


def test_rename(s3, bucket):
    s3.put_object(Bucket=bucket, Key="a b/ü+", Body=b"1", Metadata={"m": "1"})
    before = s3.head_object(Bucket=bucket, Key="a b/ü+")
    rename(s3, bucket, "a%20b/%C3%BC%2B", "new/name")
    assert error(lambda: s3.head_object(Bucket=bucket, Key="a b/ü+"))[0] == 404
    after = s3.head_object(Bucket=bucket, Key="new/name")
    assert [after[k] for k in ("ETag", "LastModified", "Metadata")] == [before[k] for k in ("ETag", "LastModified", "Metadata")]
    assert error(lambda: rename(s3, bucket, "nothing", "x")) == (404, "NoSuchKey")
    assert error(lambda: rename(s3, bucket, "new/name", "new/name")) == (400, "InvalidRequest")
    # Large ones too, over what was there.
    large = Content(1, 1_500_000).data()
    s3.put_object(Bucket=bucket, Key="large", Body=large)
    assert error(lambda: rename(s3, bucket, "large", "new/name", DestinationIfNoneMatch="*")) == (412, "PreconditionFailed")
    assert error(lambda: rename(s3, bucket, "large", "new/name", SourceIfMatch=before["ETag"])) == (412, "PreconditionFailed")
    rename(s3, bucket, "large", "new/name", DestinationIfMatch=before["ETag"])
    assert read(s3, bucket, "new/name") == large
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["new/name"]


def test_storage_classes(s3, bucket):
    """Labels are kept and shown, what there is not is refused, and a copy's class is the one it asks for."""
    for name in ("STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "REDUCED_REDUNDANCY"):
        s3.put_object(Bucket=bucket, Key=name, Body=b"x", StorageClass=name)
        assert s3.head_object(Bucket=bucket, Key=name)["StorageClass"] == name
    for name in ("GLACIER", "DEEP_ARCHIVE", "GLACIER_IR", "NO_SUCH_CLASS"):
        assert error(lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"x", StorageClass=name)) == (400, "InvalidStorageClass")
    source = {"Bucket": bucket, "Key": "STANDARD_IA"}
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source)
    assert "StorageClass" not in s3.head_object(Bucket=bucket, Key="copy")
    # The one copy onto itself that replaces nothing but the class.
    s3.copy_object(Bucket=bucket, Key="STANDARD_IA", CopySource=source, StorageClass="ONEZONE_IA")
    assert s3.head_object(Bucket=bucket, Key="STANDARD_IA")["StorageClass"] == "ONEZONE_IA"
    assert error(lambda: s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "copy"})) == (400, "InvalidRequest")


def test_rename_tokens(s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"1")
    rename(s3, bucket, "a", "b", ClientToken="token-1")
    rename(s3, bucket, "a", "b", ClientToken="token-1")
    assert error(lambda: rename(s3, bucket, "b", "c", ClientToken="token-1")) == (400, "IdempotencyParameterMismatch")
    assert error(lambda: rename(s3, bucket, "a", "b", ClientToken="token-2")) == (404, "NoSuchKey")
    assert read(s3, bucket, "b") == b"1"


def test_a_kill_keeps_every_acknowledged_append():
    with Server() as server:
        server.start()
        s3 = boto3_client(server.endpoint)
        s3.create_bucket(Bucket="grow")
        whole = b""
        for round_ in range(3):
            for n in range(5):
                body = Content(round_ * 10 + n, 30_000).data()
                append(s3, "grow", "k", body, len(whole))
                whole += body
            rename(s3, "grow", "k", "moved")
            server.kill()
            server.start()
            assert read(s3, "grow", "moved") == whole
            assert error(lambda: s3.head_object(Bucket="grow", Key="k"))[0] == 404
            rename(s3, "grow", "moved", "k")


CUSTOMER = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "0123456789abcdef0123456789abcdef"}
OTHER = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "f" * 32}


@pytest.mark.parametrize("sizes", [(5, 7, 9), (100_000, 3, 200_000)])
def test_appends_with_a_customers_key(s3, bucket, sizes):
    """Every append needs the object's key; nothing is read without it, and no wrong one leaves anything."""
    whole = b""
    for n, size in enumerate(sizes):
        body = Content(n, size).data()
        append(s3, bucket, "k", body, len(whole), **CUSTOMER)
        whole += body
    assert read(s3, bucket, "k", **CUSTOMER) == whole
    assert read(s3, bucket, "k", Range="bytes=3-10", **CUSTOMER) == whole[3:11]
    assert error(lambda: append(s3, bucket, "k", b"x", len(whole)))[0] == 400
    assert error(lambda: append(s3, bucket, "k", b"x", len(whole), **OTHER))[0] in (400, 403)
    assert error(lambda: read(s3, bucket, "k"))[0] == 400
    assert error(lambda: read(s3, bucket, "k", **OTHER)) == (403, "AccessDenied")
    assert read(s3, bucket, "k", **CUSTOMER) == whole
    rename(s3, bucket, "k", "renamed")
    assert read(s3, bucket, "renamed", **CUSTOMER) == whole
    append(s3, bucket, "renamed", b"end", len(whole), **CUSTOMER)
    assert read(s3, bucket, "renamed", **CUSTOMER) == whole + b"end"


def test_appends_with_a_named_key(s3, bucket):
    """A named key is the object's: appends say nothing of it, and are encrypted with it all the same."""
    kms = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "testkey-1"}
    append(s3, bucket, "k", b"a" * 70_000, 0, **kms)
    done = append(s3, bucket, "k", b"b" * 70_000, 70_000)
    assert (done["ServerSideEncryption"], done["SSEKMSKeyId"]) == ("aws:kms", "testkey-1")
    append(s3, bucket, "k", b"c", 140_000)
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"], head["ContentLength"]) == ("aws:kms", "testkey-1", 140_001)
    assert read(s3, bucket, "k") == b"a" * 70_000 + b"b" * 70_000 + b"c"
    # A bucket's default is for new objects: what is appended has the object's encryption.
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [
        {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "testkey-1"}}
    ]})  # fmt: skip
    append(s3, bucket, "plain", b"x" * 20_000, 0, ServerSideEncryption="AES256")
    assert append(s3, bucket, "plain", b"y", 20_000)["ServerSideEncryption"] == "AES256"
