"""Uploads by HTML form, as a browser sends them: signed with both versions by boto3 and by hand, policies that hold and
that do not, redirects, large files, and forms that are wrong."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import urllib.parse
import xml.etree.ElementTree as ElementTree

import pytest

from tests.harness import boto3_client
from tests.harness.server import ACCESS_KEY, SECRET_KEY

BOUNDARY = "----GranaryFormBoundary7MA4YWxk"


def encode(fields, file=b"", *, filename="a.txt", after=()):
    """The form as browsers write it: fields, the file, and whatever comes behind it."""
    out = []
    for name, value in fields.items():
        out.append(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    if file is not None:
        out.append(
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode()
        )
        out.append(file + b"\r\n")
    for name, value in after:
        out.append(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    out.append(f"--{BOUNDARY}--\r\n".encode())
    return b"".join(out)


def post(raw, bucket, fields, file=b"", headers=None, **more):
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"} | (headers or {})
    return raw.request("POST", bucket, headers=headers, body=encode(fields, file, **more), anonymous=True)


def expires(seconds=600):
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def signed(policy, fields):
    """Signature version 2: what older forms, and boto3 by default, carry."""
    text = policy if isinstance(policy, bytes) else json.dumps(policy).encode()
    encoded = base64.b64encode(text)
    signature = base64.b64encode(hmac.new(SECRET_KEY.encode(), encoded, hashlib.sha1).digest())
    return fields | {"AWSAccessKeyId": ACCESS_KEY, "policy": encoded.decode(), "signature": signature.decode()}


def usual(bucket, *more):
    return {
        "expiration": expires(),
        "conditions": [
            {"bucket": bucket},
            ["starts-with", "$key", "foo"],
            {"acl": "private"},
            ["starts-with", "$Content-Type", "text/plain"],
            ["content-length-range", 0, 1024],
            *more,
        ],
    }


FIELDS = {"key": "foo.txt", "acl": "private", "Content-Type": "text/plain"}


@pytest.mark.parametrize("signature", ["s3", "s3v4"])
def test_boto3_generates_forms(server, raw, bucket, signature):
    client = boto3_client(server.endpoint, signature=signature)
    form = client.generate_presigned_post(
        bucket,
        "up/${filename}",
        Fields={"Content-Type": "image/png", "x-amz-meta-who": "me"},
        Conditions=[{"Content-Type": "image/png"}, ["starts-with", "$x-amz-meta-who", ""], ["content-length-range", 1, 100]],
    )
    reply = post(raw, bucket, form["fields"], b"pixels", filename="cat.png")
    assert (reply.status, reply.body) == (204, b"")
    head = client.head_object(Bucket=bucket, Key="up/cat.png")
    assert (head["ContentType"], head["Metadata"]) == ("image/png", {"who": "me"})
    assert reply.etag == head["ETag"]
    reply = post(raw, bucket, form["fields"], b"x" * 101, filename="cat.png")
    assert (reply.status, reply.code) == (400, "EntityTooLarge")
    reply = post(raw, bucket, form["fields"], b"", filename="cat.png")
    assert (reply.status, reply.code) == (400, "EntityTooSmall")
    reply = post(raw, bucket, form["fields"] | {"x-amz-meta-more": "1"}, b"pixels")
    assert (reply.status, reply.code) == (403, "AccessDenied")
    assert b"x-amz-meta-more" in reply.body
    spoilt = {name: (value[:-2] + "00" if name.endswith("signature") else value) for name, value in form["fields"].items()}
    reply = post(raw, bucket, spoilt, b"pixels")
    assert (reply.status, reply.code) == (403, "SignatureDoesNotMatch")


def test_large_files_are_streamed(s3, raw, bucket):
    body = hashlib.shake_256(b"form").digest(20 << 20)
    reply = post(raw, bucket, signed({"expiration": expires(), "conditions": [{"bucket": bucket}, {"key": "big"}]}, {"key": "big"}), body)
    assert reply.status == 204
    assert s3.get_object(Bucket=bucket, Key="big")["Body"].read() == body
    # Behind a large file nothing may come; and nothing of it is stored.
    fields = signed({"expiration": expires(), "conditions": [{"bucket": bucket}, {"key": "bad"}]}, {"key": "bad"})
    reply = post(raw, bucket, fields, body[: 1 << 20], after=[("submit", "Upload")])
    assert (reply.status, reply.code) == (400, "MalformedPOSTRequest")
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket, Prefix="bad")


def test_fields_behind_a_small_file_mean_nothing(s3, raw, bucket):
    reply = post(raw, bucket, signed(usual(bucket), FIELDS), b"bar", after=[("submit", "Upload")])
    assert reply.status == 204
    assert s3.get_object(Bucket=bucket, Key="foo.txt")["Body"].read() == b"bar"


def test_what_a_form_is_answered(s3, raw, bucket):
    policy = {"expiration": expires(), "conditions": [{"bucket": bucket}, ["starts-with", "$key", ""],
              ["starts-with", "$success_action_status", ""], ["starts-with", "$success_action_redirect", ""]]}
    def send(**more):
        return post(raw, bucket, signed(policy, {"key": "a b&c"} | more), b"bar")
    reply = send(success_action_status="201")
    assert reply.status == 201
    document = ElementTree.fromstring(reply.body)
    assert document.tag == "PostResponse"
    assert (document.findtext("Bucket"), document.findtext("Key")) == (bucket, "a b&c")
    assert document.findtext("ETag") == reply.etag
    assert document.findtext("Location") == reply.headers["location"]
    assert send(success_action_status="200").status == 200
    assert send(success_action_status="404").status == 204
    reply = send(success_action_redirect="http://example.com/done?x=1")
    assert reply.status == 303
    target = urllib.parse.urlsplit(reply.headers["location"])
    assert target.netloc == "example.com"
    assert urllib.parse.parse_qs(target.query) == {"x": ["1"], "bucket": [bucket], "key": ["a b&c"], "etag": [reply.etag]}
    assert send(success_action_redirect="not a url", success_action_status="200").status == 200


def test_fields_in_any_letter_case_and_the_headers_they_become(s3, raw, bucket):
    policy = {
        "expiration": expires(),
        "conditions": [
            {"bUcKeT": bucket}, ["StArTs-WiTh", "$KeY", "foo"], {"AcL": "private"},
            ["StArTs-WiTh", "$CoNtEnT-TyPe", "text/"], ["eq", "$x-amz-meta-foo", "barclamp"], ["starts-with", "$tagging", "<"],
            {"cache-control": "no-store"}, ["starts-with", "$x-amz-checksum-sha256", ""],
        ],
    }
    tagging = "<Tagging><TagSet><Tag><Key>a</Key><Value>1 2</Value></Tag></TagSet></Tagging>"
    digest = base64.b64encode(hashlib.sha256(b"bar").digest()).decode()
    fields = {"kEy": "foo.txt", "aCl": "private", "cONtent-tYpe": "text/html", "x-amz-meta-foo": "barclamp", "tagging": tagging,
              "Cache-Control": "no-store", "x-amz-checksum-sha256": digest, "x-ignore-me": "please"}
    reply = post(raw, bucket, signed(policy, fields), b"bar")
    assert reply.status == 204, reply.body
    head = s3.head_object(Bucket=bucket, Key="foo.txt", ChecksumMode="ENABLED")
    assert (head["ContentType"], head["CacheControl"], head["Metadata"]) == ("text/html", "no-store", {"foo": "barclamp"})
    assert head["ChecksumSHA256"] == digest
    assert s3.get_object_tagging(Bucket=bucket, Key="foo.txt")["TagSet"] == [{"Key": "a", "Value": "1 2"}]
    wrong = base64.b64encode(hashlib.sha256(b"baz").digest()).decode()
    reply = post(raw, bucket, signed(policy, fields | {"kEy": "foo.bad", "x-amz-checksum-sha256": wrong}), b"bar")
    assert (reply.status, reply.code) == (400, "BadDigest")
    reply = post(raw, bucket, signed(policy, fields | {"tagging": "<Tagging"}), b"bar")
    assert (reply.status, reply.code) == (400, "MalformedXML")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (lambda p: p["conditions"].append({"x-amz-meta-foo": "bar"}), 403, "AccessDenied"),
        (lambda p: p["conditions"].pop(1), 403, "AccessDenied"),
        (lambda p: p["conditions"].__setitem__(0, {"bucket": "another"}), 403, "AccessDenied"),
        (lambda p: p.__setitem__("expiration", expires(-60)), 403, "AccessDenied"),
        (lambda p: p.__setitem__("expiration", "tomorrow"), 400, "InvalidPolicyDocument"),
        (lambda p: p.pop("expiration"), 400, "InvalidPolicyDocument"),
        (lambda p: p.__setitem__("EXPIRATION", p.pop("expiration")), 400, "InvalidPolicyDocument"),
        (lambda p: p.pop("conditions"), 400, "InvalidPolicyDocument"),
        (lambda p: p.__setitem__("CONDITIONS", p.pop("conditions")), 400, "InvalidPolicyDocument"),
        (lambda p: p["conditions"].append({}), 400, "InvalidPolicyDocument"),
        (lambda p: p["conditions"].__setitem__(4, ["content-length-range", 0]), 400, "InvalidPolicyDocument"),
        (lambda p: p["conditions"].__setitem__(4, ["content-length-range", -1, 0]), 400, "InvalidPolicyDocument"),
        (lambda p: p["conditions"].__setitem__(4, ["content-length-range", 0, 0]), 400, "EntityTooLarge"),
        (lambda p: p["conditions"].__setitem__(4, ["content-length-range", 512, 1000]), 400, "EntityTooSmall"),
    ],
)
def test_policies_that_do_not_allow_it(s3, raw, bucket, change, status, code):
    policy = usual(bucket)
    assert post(raw, bucket, signed(policy, FIELDS | {"key": "foo.good"}), b"bar").status == 204
    change(policy)
    reply = post(raw, bucket, signed(policy, FIELDS), b"bar")
    assert (reply.status, reply.code) == (status, code)
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["foo.good"]


def test_forms_that_are_wrong(raw, bucket):
    good = signed(usual(bucket), FIELDS)
    def without(*names):
        return {name: value for name, value in good.items() if name not in names}
    for fields, status, code in [
        (without("key"), 400, "InvalidArgument"),
        (without("signature"), 400, "InvalidArgument"),
        (without("policy"), 400, "InvalidArgument"),
        (without("AWSAccessKeyId"), 400, "InvalidArgument"),
        (good | {"signature": good["signature"][::-1]}, 403, "SignatureDoesNotMatch"),
        (good | {"AWSAccessKeyId": "NOSUCHKEY"}, 403, "InvalidAccessKeyId"),
        (signed(b"{", FIELDS), 400, "InvalidPolicyDocument"),
        (without("AWSAccessKeyId", "policy", "signature"), 403, "AccessDenied"),
    ]:
        reply = post(raw, bucket, fields, b"bar")
        assert (reply.status, reply.code) == (status, code), reply.body
        document = ElementTree.fromstring(reply.body)
        assert document.findtext("RequestId") == reply.headers["x-amz-request-id"]
        assert document.findtext("Resource") == f"/{bucket}"
        assert document.findtext("Message")
    reply = post(raw, bucket, good, None)
    assert (reply.status, reply.code) == (400, "IncorrectNumberOfFilesInPostRequest")
    reply = raw.request("POST", bucket, headers={"content-type": "multipart/form-data"}, body=b"x", anonymous=True)
    assert (reply.status, reply.code) == (400, "MalformedPOSTRequest")
    reply = post(raw, f"{bucket}-none", signed(usual(f"{bucket}-none"), FIELDS), b"bar")
    assert (reply.status, reply.code) == (404, "NoSuchBucket")
    reply = post(raw, bucket, signed(usual(bucket), FIELDS | {"key": "f" * 1100}), b"bar")
    assert reply.status in (400, 403)
    reply = post(raw, bucket, {"a": "x" * 30_000} | good, b"bar")
    assert (reply.status, reply.code) == (400, "MaxPostPreDataLengthExceededError")
