"""Encryption where the field's suites look at it: forms, parts with headers of their own, uploads completed with the wrong key, conflicts."""

from __future__ import annotations

import base64
import hashlib

import pytest

from tests.harness import web
from tests.harness.failure import failure

SSE = "x-amz-server-side-encryption"
KEY, OTHER = b"0123456789abcdef0123456789abcdef", b"f" * 32


def customer(key):
    return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}


def customer_fields(key):
    return {
        f"{SSE}-customer-algorithm": "AES256",
        f"{SSE}-customer-key": base64.b64encode(key).decode(),
        f"{SSE}-customer-key-md5": base64.b64encode(hashlib.md5(key).digest()).decode(),
    }


@pytest.fixture
def kms():
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "testkey-1"}


def default(s3, bucket, **rule):
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": rule}]})


def post(s3, bucket, fields):
    form = s3.generate_presigned_post(bucket, "foo.txt", Fields=dict(fields), Conditions=[["starts-with", f"${name}", ""] for name in fields])
    return web.post_form(form["url"], form["fields"], b"bar")


def test_forms(s3, bucket, kms):
    assert post(s3, bucket, {SSE: "AES256"}).status == 204
    assert s3.head_object(Bucket=bucket, Key="foo.txt")["ServerSideEncryption"] == "AES256"
    assert post(s3, bucket, {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "testkey-1"}).status == 204
    answer = s3.get_object(Bucket=bucket, Key="foo.txt")
    assert (answer["ServerSideEncryption"], answer["SSEKMSKeyId"], answer["Body"].read()) == ("aws:kms", "testkey-1", b"bar")
    assert post(s3, bucket, customer_fields(KEY)).status == 204
    assert failure(s3.get_object, Bucket=bucket, Key="foo.txt")[0] == 400
    assert s3.get_object(Bucket=bucket, Key="foo.txt", **customer(KEY))["Body"].read() == b"bar"
    assert post(s3, bucket, customer_fields(KEY) | {f"{SSE}-customer-key-md5": "AAAAAAAAAAAAAAAAAAAAAA=="}).status == 400
    assert post(s3, bucket, {SSE: "aes:kms"}).status == 400


def test_forms_have_the_buckets_default(s3, bucket, kms):
    default(s3, bucket, SSEAlgorithm="aws:kms", KMSMasterKeyID="testkey-1")
    assert post(s3, bucket, {}).status == 204
    assert s3.head_object(Bucket=bucket, Key="foo.txt")["SSEKMSKeyId"] == "testkey-1"
    default(s3, bucket, SSEAlgorithm="AES256")
    assert post(s3, bucket, {}).status == 204
    assert s3.head_object(Bucket=bucket, Key="foo.txt")["ServerSideEncryption"] == "AES256"


def test_parts_may_repeat_what_the_upload_says(s3, bucket, kms):
    """What encrypts a part is said when the upload begins; clients that say it again with each part, or say something else, are served."""
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k", **kms)["UploadId"]
    for again in ("testkey-1", "testkey-not-present"):
        headers = {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": again}
        add = lambda params, headers=headers, **_: params["headers"].update(headers)
        s3.meta.events.register("before-call.s3.UploadPart", add)
        part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"x" * 100)
        s3.meta.events.unregister("before-call.s3.UploadPart", add)
        assert part["SSEKMSKeyId"] == "testkey-1"
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    assert s3.head_object(Bucket=bucket, Key="k")["SSEKMSKeyId"] == "testkey-1"


def test_uploads_with_a_customers_key(s3, bucket):
    s3.put_object(Bucket=bucket, Key="source", Body=b"s" * 1000, **customer(OTHER))
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k", **customer(KEY))["UploadId"]
    named = {"Bucket": bucket, "Key": "k", "UploadId": upload}
    source = {"CopySource": f"{bucket}/source", "CopySourceSSECustomerAlgorithm": "AES256", "CopySourceSSECustomerKey": OTHER}
    assert failure(s3.upload_part_copy, **named, PartNumber=1, **source)[0] == 400
    assert failure(s3.upload_part, **named, PartNumber=1, Body=b"x")[0] == 400
    assert failure(s3.upload_part, **named, PartNumber=1, Body=b"x", **customer(OTHER))[0] == 400
    copied = s3.upload_part_copy(**named, PartNumber=1, **source, **customer(KEY))["CopyPartResult"]["ETag"]
    parts = {"MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": copied}]}}
    assert failure(s3.complete_multipart_upload, **named, **parts, **customer(OTHER))[0] == 400
    s3.complete_multipart_upload(**named, **parts, **customer(KEY))
    assert s3.get_object(Bucket=bucket, Key="k", **customer(KEY))["Body"].read() == b"s" * 1000
    attributes = ["ETag", "ObjectSize", "StorageClass"]
    assert failure(s3.get_object_attributes, Bucket=bucket, Key="k", ObjectAttributes=attributes)[0] == 400
    # botocore encodes no key here.
    md5 = base64.b64encode(hashlib.md5(KEY).digest()).decode()
    key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64encode(KEY).decode(), "SSECustomerKeyMD5": md5}
    assert s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=attributes, **key)["ObjectSize"] == 1000


def test_conflicts(s3, bucket, kms):
    put = lambda **more: failure(s3.put_object, Bucket=bucket, Key="k", Body=b"x", **more)
    assert put(ServerSideEncryption="AES256", **customer(KEY)) == (400, "InvalidArgument")
    assert put(**kms, **customer(KEY)) == (400, "InvalidArgument")
    assert put(ServerSideEncryption="AES256", SSEKMSKeyId="testkey-1") == (400, "InvalidArgument")
    assert put(ServerSideEncryption="aes:kms") == (400, "InvalidArgument")
    assert put(SSEKMSKeyId="testkey-1") == (400, "InvalidArgument")
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for call in (s3.get_object, s3.head_object):
        add = lambda params, **_: params["headers"].update({SSE: "AES256"})
        event = "before-call.s3." + ("GetObject" if call == s3.get_object else "HeadObject")
        s3.meta.events.register(event, add)
        assert failure(call, Bucket=bucket, Key="k")[0] == 400
        s3.meta.events.unregister(event, add)
