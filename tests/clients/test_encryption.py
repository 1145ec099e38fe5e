"""Encryption headers with boto3: SSE-S3, SSE-KMS and SSE-C on everything that has them, AWS's refusals, and copies
between all of them. (Every kind × every size × every range is compared in crates/granary-store/tests/sse.rs.)"""

from __future__ import annotations

import base64
import hashlib
import itertools
import os

import pytest
from botocore.exceptions import ClientError

KEYS = [hashlib.sha256(f"customer {n}".encode()).digest() for n in range(3)]
SIZES = [0, 1000, 100_000, 1_500_000]
MIB = 1 << 20


def customer(number: int, prefix: str = "") -> dict:
    key = KEYS[number]
    return {
        f"{prefix}SSECustomerAlgorithm": "AES256",
        f"{prefix}SSECustomerKey": base64.b64encode(key).decode(),
        f"{prefix}SSECustomerKeyMD5": base64.b64encode(hashlib.md5(key).digest()).decode(),
    }


# What a write is given, what a read of it is given, what answers say.
WRITES = {
    "none": {},
    "s3": {"ServerSideEncryption": "AES256"},
    "kms": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "testkey-1"},
    "kms-default": {"ServerSideEncryption": "aws:kms", "SSEKMSEncryptionContext": "eyJhIjoiYiJ9"},
    "c": customer(0),
}
READS = {kind: customer(0) if kind == "c" else {} for kind in WRITES}


def check_answer(kind: str, answer: dict) -> None:
    if kind == "c":
        assert answer["SSECustomerAlgorithm"] == "AES256"
        assert answer["SSECustomerKeyMD5"] == customer(0)["SSECustomerKeyMD5"]
        assert "ServerSideEncryption" not in answer
    elif kind.startswith("kms"):
        assert answer["ServerSideEncryption"] == "aws:kms"
        assert answer["SSEKMSKeyId"] == ("testkey-1" if kind == "kms" else "aws/s3")
    else:
        assert answer["ServerSideEncryption"] == "AES256"


def error(call) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("size", SIZES)
def test_put_get_head_ranges(s3, bucket, kind, size):
    body = os.urandom(size)
    put = s3.put_object(Bucket=bucket, Key="o", Body=body, **WRITES[kind])
    check_answer(kind, put)
    is_md5 = put["ETag"].strip('"') == hashlib.md5(body).hexdigest()
    assert is_md5 == (kind in ("none", "s3")), "as on AWS, only SSE-S3 objects have their MD5 as ETag"
    got = s3.get_object(Bucket=bucket, Key="o", **READS[kind])
    assert got["Body"].read() == body
    check_answer(kind, got)
    head = s3.head_object(Bucket=bucket, Key="o", **READS[kind])
    check_answer(kind, head)
    assert head["ContentLength"] == size and head["ETag"] == put["ETag"]
    for first, last in [(0, 0), (size // 2, size // 2 + 70_000), (65_519, 65_521)]:
        if last < size:
            got = s3.get_object(Bucket=bucket, Key="o", Range=f"bytes={first}-{last}", **READS[kind])
            assert got["Body"].read() == body[first : last + 1]
    attributes = s3.get_object_attributes(
        Bucket=bucket, Key="o", ObjectAttributes=["ETag", "ObjectSize", "Checksum"], **READS[kind]
    )
    assert attributes["ETag"] == put["ETag"].strip('"') and attributes["ObjectSize"] == size


@pytest.mark.parametrize("source,target", list(itertools.product(WRITES, WRITES)))
def test_copies_between_all(s3, bucket, source, target):
    body = os.urandom(150_000)
    s3.put_object(Bucket=bucket, Key="from", Body=body, **WRITES[source])
    opened = customer(0, "CopySource") if source == "c" else {}
    copied = s3.copy_object(Bucket=bucket, Key="to", CopySource=f"{bucket}/from", **WRITES[target], **opened)
    check_answer(target, copied)
    got = s3.get_object(Bucket=bucket, Key="to", **READS[target])
    check_answer(target, got)
    assert got["Body"].read() == body
    # The kind of a copy may be changed in place.
    in_place = s3.copy_object(Bucket=bucket, Key="to", CopySource=f"{bucket}/to", ServerSideEncryption="AES256",
                              **(customer(0, "CopySource") if target == "c" else {}))  # fmt: skip
    check_answer("s3", in_place)
    assert s3.get_object(Bucket=bucket, Key="to")["Body"].read() == body


@pytest.mark.parametrize("kind", WRITES)
def test_multipart(s3, bucket, kind):
    parts = [os.urandom(5 * MIB + 1), os.urandom(5 * MIB), os.urandom(1234)]
    key = READS[kind]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m", **WRITES[kind])
    check_answer(kind, upload)
    done = []
    for number, part in enumerate(parts, 1):
        answer = s3.upload_part(
            Bucket=bucket, Key="m", UploadId=upload["UploadId"], PartNumber=number, Body=part, **key
        )
        check_answer(kind, answer)
        done.append({"PartNumber": number, "ETag": answer["ETag"]})
    end = s3.complete_multipart_upload(
        Bucket=bucket, Key="m", UploadId=upload["UploadId"], MultipartUpload={"Parts": done}, **key
    )
    assert end["ETag"].strip('"').endswith("-3")
    whole = b"".join(parts)
    assert s3.get_object(Bucket=bucket, Key="m", **key)["Body"].read() == whole
    border = len(parts[0])
    got = s3.get_object(Bucket=bucket, Key="m", Range=f"bytes={border - 9}-{border + 80_000}", **key)
    assert got["Body"].read() == whole[border - 9 : border + 80_001]
    for number, part in enumerate(parts, 1):
        got = s3.get_object(Bucket=bucket, Key="m", PartNumber=number, **key)
        assert got["Body"].read() == part and got["PartsCount"] == 3
        check_answer(kind, got)


def test_the_high_level_transfer_carries_the_key(s3, bucket, tmp_path):
    body = os.urandom(20 * MIB)
    source, target = tmp_path / "up", tmp_path / "down"
    source.write_bytes(body)
    extra = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": KEYS[0]}
    s3.upload_file(str(source), bucket, "big", ExtraArgs=extra)
    s3.download_file(bucket, "big", str(target), ExtraArgs=extra)
    assert target.read_bytes() == body


# --- refusals ----------------------------------------------------------------------------------------------


def test_reads_without_the_right_key(s3, bucket):
    s3.put_object(Bucket=bucket, Key="c", Body=b"x" * 1000, **customer(0))
    s3.put_object(Bucket=bucket, Key="plain", Body=b"x")
    get = lambda **key: (lambda: s3.get_object(Bucket=bucket, Key="c", **key))  # noqa: E731
    head = lambda **key: (lambda: s3.head_object(Bucket=bucket, Key="c", **key))  # noqa: E731
    assert error(get()) == (400, "InvalidRequest")
    assert error(head())[0] == 400
    assert error(get(**customer(1))) == (403, "AccessDenied")
    assert error(head(**customer(1)))[0] == 403
    assert error(lambda: s3.get_object(Bucket=bucket, Key="plain", **customer(0))) == (400, "InvalidRequest")
    attributes = lambda **key: (  # noqa: E731
        lambda: s3.get_object_attributes(Bucket=bucket, Key="c", ObjectAttributes=["ETag"], **key)
    )
    assert error(attributes()) == (400, "InvalidRequest")
    assert error(attributes(**customer(1))) == (403, "AccessDenied")
    copy = lambda **key: (lambda: s3.copy_object(Bucket=bucket, Key="t", CopySource=f"{bucket}/c", **key))  # noqa: E731
    assert error(copy()) == (400, "InvalidRequest")
    assert error(copy(**customer(1, "CopySource"))) == (403, "AccessDenied")
    # What is not the bytes needs no key.
    s3.put_object_tagging(Bucket=bucket, Key="c", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    s3.delete_object(Bucket=bucket, Key="c")


def test_wrong_headers(raw, s3, bucket):
    good = {
        "x-amz-server-side-encryption-customer-algorithm": "AES256",
        "x-amz-server-side-encryption-customer-key": customer(0)["SSECustomerKey"],
        "x-amz-server-side-encryption-customer-key-md5": customer(0)["SSECustomerKeyMD5"],
    }
    names = list(good)

    def put(headers) -> tuple[int, str]:
        reply = raw.request("PUT", bucket, "o", headers=headers, body=b"x")
        return reply.status, reply.code

    without = lambda *drop: {n: v for n, v in good.items() if n not in [names[d] for d in drop]}  # noqa: E731
    short = base64.b64encode(b"short").decode()
    short_md5 = base64.b64encode(hashlib.md5(b"short").digest()).decode()
    sse = "x-amz-server-side-encryption"
    for headers, code in [
        (good | {names[0]: "AES192"}, "InvalidEncryptionAlgorithmError"),
        (without(0), "InvalidArgument"),
        (without(1), "InvalidArgument"),
        (without(2), "InvalidArgument"),
        (good | {names[2]: "AAAAAAAAAAAAAAAAAAAAAA=="}, "InvalidArgument"),
        (good | {names[1]: short, names[2]: short_md5}, "InvalidArgument"),
        (good | {sse: "AES256"}, "InvalidArgument"),
        (good | {sse: "aws:kms"}, "InvalidArgument"),
        ({sse: "aes:kms"}, "InvalidArgument"),
        ({sse: ""}, "InvalidArgument"),
        ({sse: "AES256", f"{sse}-aws-kms-key-id": "testkey-1"}, "InvalidArgument"),
        ({f"{sse}-aws-kms-key-id": "testkey-1"}, "InvalidArgument"),
        ({sse: "aws:kms", f"{sse}-aws-kms-key-id": "nobody"}, "KMS.NotFoundException"),
        ({sse: "aws:kms", f"{sse}-context": "bm8="}, "InvalidArgument"),
    ]:
        assert put(headers) == (400, code), headers
    assert put({sse: "aws:kms:dsse"}) == (501, "NotImplemented")
    assert put(good) == (200, "")
    s3.put_object(Bucket=bucket, Key="plain", Body=b"x")
    for header in [{sse: "AES256"}, {sse: "aws:kms", f"{sse}-aws-kms-key-id": "testkey-1"}]:
        reply = raw.request("GET", bucket, "plain", headers=header)
        assert (reply.status, reply.code) == (400, "InvalidArgument"), header


def test_parts_need_the_uploads_key(s3, bucket):
    begun = s3.create_multipart_upload(Bucket=bucket, Key="m", **customer(0))
    part = lambda **key: s3.upload_part(  # noqa: E731
        Bucket=bucket, Key="m", UploadId=begun["UploadId"], PartNumber=1, Body=b"x" * 100, **key
    )
    assert error(lambda: part()) == (400, "InvalidRequest")
    assert error(lambda: part(**customer(1))) == (400, "InvalidRequest")
    etag = part(**customer(0))["ETag"]
    complete = lambda **key: s3.complete_multipart_upload(  # noqa: E731
        Bucket=bucket, Key="m", UploadId=begun["UploadId"],
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}, **key
    )  # fmt: skip
    assert error(lambda: complete(**customer(1))) == (400, "InvalidRequest")
    complete(**customer(0))
    plain = s3.create_multipart_upload(Bucket=bucket, Key="p")
    refused = lambda: s3.upload_part(  # noqa: E731
        Bucket=bucket, Key="p", UploadId=plain["UploadId"], PartNumber=1, Body=b"x", **customer(0)
    )
    assert error(refused) == (400, "InvalidRequest")


def test_versions_have_keys_of_their_own(s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    written = {}
    for number in range(3):
        body = os.urandom(50_000)
        version = s3.put_object(Bucket=bucket, Key="v", Body=body, **customer(number))["VersionId"]
        written[version] = (number, body)
    for version, (number, body) in written.items():
        got = s3.get_object(Bucket=bucket, Key="v", VersionId=version, **customer(number))
        assert got["Body"].read() == body
        other = customer((number + 1) % 3)
        assert error(lambda: s3.get_object(Bucket=bucket, Key="v", VersionId=version, **other)) == (403, "AccessDenied")


def test_a_buckets_default(s3, bucket):
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "testkey-2"},
            "BucketKeyEnabled": True}  # fmt: skip
    configuration = {"Rules": [rule]}
    try:
        s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=configuration)
    except ClientError as refused:
        if refused.response["Error"]["Code"] == "NotImplemented":
            pytest.skip("PutBucketEncryption is not there yet")
        raise
    s3.put_object(Bucket=bucket, Key="before", Body=b"x" * 50_000)
    head = s3.head_object(Bucket=bucket, Key="before")
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "testkey-2")
    assert head["BucketKeyEnabled"] is True
    s3.put_object(Bucket=bucket, Key="named", Body=b"x", ServerSideEncryption="AES256")
    assert s3.head_object(Bucket=bucket, Key="named")["ServerSideEncryption"] == "AES256"
    s3.copy_object(Bucket=bucket, Key="copied", CopySource=f"{bucket}/named")
    assert s3.head_object(Bucket=bucket, Key="copied")["ServerSideEncryption"] == "aws:kms"
    assert s3.create_multipart_upload(Bucket=bucket, Key="m")["ServerSideEncryption"] == "aws:kms"
    s3.put_object(Bucket=bucket, Key="c", Body=b"x", **customer(0))
    assert "ServerSideEncryption" not in s3.head_object(Bucket=bucket, Key="c", **customer(0))
    s3.delete_bucket_encryption(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="after", Body=b"x")
    assert s3.head_object(Bucket=bucket, Key="after")["ServerSideEncryption"] == "AES256"
