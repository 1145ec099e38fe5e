"""Every refusal is an XML document with the right status, code, message, resource and request id: a table over S3's errors,
each made happen by one plain request."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

XML = b"<?xml version='1.0'?>"

# method, key, query, headers, body, status, code. `{bucket}` in a key means the request is about no bucket.
TABLE = [
    ("GET", "none", {}, {}, b"", 404, "NoSuchKey"),
    ("GET", "k", {"versionId": "0" * 32}, {}, b"", 404, "NoSuchVersion"),
    ("GET", "k", {"uploadId": "0" * 32}, {}, b"", 404, "NoSuchUpload"),
    ("GET", "k", {}, {"range": "bytes=100-"}, b"", 416, "InvalidRange"),
    ("GET", "k", {"partNumber": "2"}, {}, b"", 416, "InvalidPartNumber"),
    ("GET", "k", {}, {"if-match": '"no"'}, b"", 412, "PreconditionFailed"),
    ("GET", "k", {"torrent": ""}, {}, b"", 404, "NoSuchKey"),
    ("GET", "", {"inventory": "", "id": "a"}, {}, b"", 404, "NoSuchConfiguration"),
    ("GET", "", {"cors": ""}, {}, b"", 404, "NoSuchCORSConfiguration"),
    ("GET", "", {"policy": ""}, {}, b"", 404, "NoSuchBucketPolicy"),
    ("GET", "", {"policyStatus": ""}, {}, b"", 404, "NoSuchBucketPolicy"),
    ("GET", "", {"tagging": ""}, {}, b"", 404, "NoSuchTagSet"),
    ("GET", "", {"website": ""}, {}, b"", 404, "NoSuchWebsiteConfiguration"),
    ("GET", "", {"replication": ""}, {}, b"", 404, "ReplicationConfigurationNotFoundError"),
    ("GET", "", {"object-lock": ""}, {}, b"", 404, "ObjectLockConfigurationNotFoundError"),
    ("GET", "", {"list-type": "2", "max-keys": "-1"}, {}, b"", 400, "InvalidArgument"),
    ("GET", "", {"list-type": "2", "continuation-token": "x"}, {}, b"", 400, "InvalidArgument"),
    ("GET", "", {"encoding-type": "base64"}, {}, b"", 400, "InvalidArgument"),
    ("PUT", "k" * 1025, {}, {}, b"x", 400, "KeyTooLongError"),
    ("PUT", "k", {}, {"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="}, b"x", 400, "BadDigest"),
    ("PUT", "k", {}, {"content-md5": "?"}, b"x", 400, "InvalidDigest"),
    ("PUT", "k", {}, {"x-amz-checksum-crc32": "AAAAAA=="}, b"x", 400, "BadDigest"),
    ("PUT", "k", {}, {"x-amz-storage-class": "FAST"}, b"x", 400, "InvalidStorageClass"),
    ("PUT", "k", {}, {"x-amz-acl": "public-read"}, b"x", 400, "AccessControlListNotSupported"),
    ("PUT", "k", {}, {"x-amz-tagging": "a=1&a=2"}, b"x", 400, "InvalidArgument"),
    ("PUT", "k", {}, {"x-amz-object-lock-legal-hold": "ON"}, b"x", 400, "InvalidRequest"),
    ("PUT", "k", {}, {"if-none-match": "*"}, b"x", 412, "PreconditionFailed"),
    ("PUT", "none", {}, {"if-match": '"no"'}, b"x", 404, "NoSuchKey"),
    ("PUT", "c", {}, {"x-amz-copy-source": "/{bucket}/none"}, b"", 404, "NoSuchKey"),
    ("PUT", "k", {}, {"x-amz-copy-source": "/{bucket}/k"}, b"", 400, "InvalidRequest"),
    ("PUT", "k", {"partNumber": "10001", "uploadId": "0" * 32}, {}, b"x", 400, "InvalidArgument"),
    ("PUT", "", {"versioning": ""}, {}, XML + b"<VersioningConfiguration/>", 400, "IllegalVersioningConfigurationException"),
    ("PUT", "", {"cors": ""}, {}, b"<CORS", 400, "MalformedXML"),
    ("PUT", "", {"cors": ""}, {}, b"", 400, "MissingRequestBodyError"),
    ("PUT", "", {"acl": ""}, {}, b"<Access", 400, "MalformedACLError"),
    ("PUT", "", {"acl": ""}, {}, b"", 400, "MissingSecurityHeader"),
    ("PUT", "", {"policy": ""}, {}, b"{", 400, "MalformedPolicy"),
    ("PUT", "", {"website": ""}, {}, b"<WebsiteConfiguration/>", 501, "NotImplemented"),
    ("POST", "", {}, {}, b"", 412, "PreconditionFailed"),
    ("POST", "", {"delete": ""}, {}, b"<Delete></Delete>", 400, "MalformedXML"),
    ("POST", "k", {}, {}, b"", 405, "MethodNotAllowed"),
    ("PATCH", "k", {}, {}, b"", 405, "MethodNotAllowed"),
    ("OPTIONS", "k", {}, {}, b"", 400, "BadRequest"),
    ("OPTIONS", "k", {}, {"origin": "http://a", "access-control-request-method": "GET"}, b"", 403, "AccessForbidden"),
    ("DELETE", "", {}, {}, b"", 409, "BucketNotEmpty"),
    ("DELETE", "", {"metrics": "", "id": "a"}, {}, b"", 404, "NoSuchConfiguration"),
]


@pytest.mark.parametrize(("method", "key", "query", "headers", "body", "status", "code"), TABLE, ids=lambda value: None)
def test_refusals(s3, raw, bucket, method, key, query, headers, body, status, code):
    s3.put_object(Bucket=bucket, Key="k", Body=b"hello")
    headers = {name: value.format(bucket=bucket) for name, value in headers.items()}
    check(raw.request(method, bucket, key, query=query, headers=headers, body=body), status, code, f"/{bucket}" + (f"/{key}" if key else ""))


def test_refusals_about_no_bucket(raw, bucket):
    check(raw.request("GET", f"{bucket}-none"), 404, "NoSuchBucket", f"/{bucket}-none")
    check(raw.request("PUT", "UPPER"), 400, "InvalidBucketName", "/UPPER")
    check(raw.request("DELETE", ""), 405, "MethodNotAllowed", "/")
    check(raw.request("GET", "", anonymous=True), 403, "AccessDenied", "/")
    check(raw.request("GET", bucket, "k", headers={"authorization": "AWS4-HMAC-SHA256 nonsense"}, anonymous=True), None, None, f"/{bucket}/k")


def check(reply, status, code, resource):
    if status is None:
        assert 400 <= reply.status < 500
    else:
        assert (reply.status, reply.code) == (status, code), reply.body
    assert reply.headers["content-type"] == "application/xml"
    document = ElementTree.fromstring(reply.body)
    assert document.tag == "Error"
    assert document.findtext("Message")
    assert document.findtext("Resource") == resource
    assert document.findtext("RequestId") == reply.headers["x-amz-request-id"]
    assert document.findtext("HostId") == reply.headers["x-amz-id-2"]
