"""Documents in aws-chunked form, as some SDKs send them where a body has a trailer: S3 takes any body so."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ElementTree
import zlib

import pytest

from tests.harness.failure import failure
from tests.harness.raw import NAMESPACE


def send(raw, method, bucket, key="", query=None, document=b"", trailer=True, claimed=None):
    """The document in chunks, unsigned, with a CRC32 behind them."""
    sum_ = base64.b64encode((claimed if claimed is not None else zlib.crc32(document)).to_bytes(4, "big")).decode()
    headers = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(document)), "x-amz-trailer": "x-amz-checksum-crc32"}
    half = len(document) // 2
    wire = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in (document[:half], document[half:]) if piece)
    wire += b"0\r\n" + (f"x-amz-checksum-crc32:{sum_}\r\n".encode() if trailer else b"") + b"\r\n"
    path = f"/{bucket}" + (f"/{key}" if key else "")
    text = "&".join(f"{name}={value}" for name, value in sorted((query or {}).items()))
    signed = raw.sign(method, path, text, headers, wire, "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", raw.port, timeout=30)
    connection.request(method, path + (f"?{text}" if text else ""), body=wire, headers=signed)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    code = ElementTree.fromstring(body).findtext("Code") if answer.status >= 300 and body.startswith(b"<") else ""
    return answer.status, code or "", body


TAGGING = b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"


def test_documents(raw, s3, bucket):
    for key in ("k1", "k2"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert send(raw, "PUT", bucket, "k1", {"tagging": ""}, TAGGING)[:2] == (200, "")
    assert s3.get_object_tagging(Bucket=bucket, Key="k1")["TagSet"] == [{"Key": "a", "Value": "b"}]
    assert send(raw, "PUT", bucket, "", {"tagging": ""}, TAGGING)[:2] in ((200, ""), (204, ""))
    many = b"<Delete><Object><Key>k1</Key></Object><Object><Key>k2</Key></Object></Delete>"
    status, code, body = send(raw, "POST", bucket, "", {"delete": ""}, many)
    assert (status, code) == (200, "") and body.count(b"<Deleted>") == 2
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    enabled = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    assert send(raw, "PUT", bucket, "", {"versioning": ""}, enabled)[:2] == (200, "")
    policy = b'{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:GetBucketTagging","Resource":"arn:aws:s3:::' + bucket.encode() + b'"}]}'
    assert send(raw, "PUT", bucket, "", {"policy": ""}, policy)[:2] == (204, "")
    assert s3.get_bucket_policy(Bucket=bucket)["Policy"].encode() == policy


def test_completing_an_upload(raw, s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    etag = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"part")["ETag"]
    document = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>".encode()
    status, code, body = send(raw, "POST", bucket, "k", {"uploadId": upload}, document)
    assert (status, code) == (200, ""), body
    assert ElementTree.fromstring(body).findtext(f"{NAMESPACE}Key") == "k"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"part"


@pytest.mark.parametrize("claimed", [0, 1])
def test_a_sum_that_is_wrong(raw, s3, bucket, claimed):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert send(raw, "PUT", bucket, "k", {"tagging": ""}, TAGGING, claimed=claimed)[:2] == (400, "BadDigest")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []
    many = b"<Delete><Object><Key>k</Key></Object></Delete>"
    assert send(raw, "POST", bucket, "", {"delete": ""}, many, claimed=claimed)[:2] == (400, "BadDigest")
    s3.head_object(Bucket=bucket, Key="k")


def test_documents_that_are_none(raw, s3, bucket):
    assert send(raw, "PUT", bucket, "", {"tagging": ""}, b"<Tag")[:2] == (400, "MalformedXML")
    assert send(raw, "POST", bucket, "", {"delete": ""}, b"x" * 5_000_000)[:2] == (400, "MaxMessageLengthExceeded")
    assert failure(s3.get_bucket_tagging, Bucket=bucket) == (404, "NoSuchTagSet")
