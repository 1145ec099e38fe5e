"""All checksum algorithms, as headers and trailers, whole and composite; wrong ones refused; GetObjectAttributes."""

from __future__ import annotations

import base64
import hashlib
import http.client
import zlib

import pytest

from tests.harness import Content, boto3_client

from .test_boto3_core import error
from .test_boto3_multipart import begin, finish, send

awscrt = pytest.importorskip("awscrt.checksums", reason="awscrt is not installed: no CRC32C and CRC64NVME here")

MIB = 1024 * 1024
PART = 5 * MIB
SUMS = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "CRC32C": lambda data: awscrt.crc32c(data).to_bytes(4, "big"),
    "CRC64NVME": lambda data: awscrt.crc64nvme(data).to_bytes(8, "big"),
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}


def sum64(algorithm: str, data: bytes) -> str:
    return base64.b64encode(SUMS[algorithm](data)).decode()


@pytest.mark.parametrize("size", [0, 11, 100_000, 1_000_000])
@pytest.mark.parametrize("algorithm", SUMS)
def test_put_and_read_back(s3, bucket, algorithm, size):
    data = Content(1, size).data()
    put = s3.put_object(Bucket=bucket, Key="k", Body=data, ChecksumAlgorithm=algorithm)
    assert put[f"Checksum{algorithm}"] == sum64(algorithm, data)
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == data  # botocore checks it as it reads
    assert got[f"Checksum{algorithm}"] == sum64(algorithm, data)
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == sum64(algorithm, data) and head.get("ChecksumType") == "FULL_OBJECT"
    part = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED", Range="bytes=0-0") if size else None
    if part:
        assert part["Body"].read() == data[:1]


@pytest.mark.parametrize("algorithm", SUMS)
def test_wrong_one_is_refused(s3, raw, bucket, algorithm):
    s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    name = f"x-amz-checksum-{algorithm.lower()}"
    for size in (9, 300_000):
        reply = raw.request("PUT", bucket, "k", body=Content(1, size).data(), headers={name: sum64(algorithm, b"other")})
        assert (reply.status, reply.code) == (400, "BadDigest"), reply
    malformed = raw.request("PUT", bucket, "k", body=b"x", headers={name: "AAAA"})
    assert (malformed.status, malformed.code) == (400, "InvalidRequest"), malformed
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"before"


def test_wrong_content_md5_is_refused(s3, raw, bucket):
    good = base64.b64encode(hashlib.md5(b"body").digest()).decode()
    assert raw.request("PUT", bucket, "k", body=b"body", headers={"content-md5": good}).status == 200
    reply = raw.request("PUT", bucket, "k", body=b"bodY", headers={"content-md5": good})
    assert (reply.status, reply.code) == (400, "BadDigest")
    reply = raw.request("PUT", bucket, "k", body=b"x", headers={"content-md5": "short"})
    assert (reply.status, reply.code) == (400, "InvalidDigest")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"body"


def test_default_of_boto3(s3, bucket):
    """boto3 sends CRC32 by itself; with nothing asked for, it is stored and comes back when asked."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    assert s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["ChecksumCRC32"] == sum64("CRC32", b"body")
    assert "ChecksumCRC32" not in s3.head_object(Bucket=bucket, Key="k")


def test_no_checksum_at_all(server, bucket):
    s3 = boto3_client(server.endpoint, request_checksum_calculation="when_required")
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    assert s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["Body"].read() == b"body"


@pytest.mark.parametrize("size", [0, 1, 70_000, 3 * MIB])
@pytest.mark.parametrize("algorithm", ["CRC32", "CRC64NVME", "SHA256"])
@pytest.mark.parametrize("spoilt", ["", "sum", "length"])
def test_unsigned_trailer_chunks(raw, s3, bucket, size, algorithm, spoilt):
    """aws-chunked with a checksum in the trailer, as clients send it over https and pyarrow over http."""
    data = Content(6, size).data()
    name = f"x-amz-checksum-{algorithm.lower()}"
    frames = b"".join(b"%x\r\n%s\r\n" % (len(run), run) for run in (data[i : i + 65_536] for i in range(0, size, 65_536)))
    claimed = sum64(algorithm, data + b"!") if spoilt == "sum" else sum64(algorithm, data)
    body = frames + b"0\r\n" + f"{name}:{claimed}\r\n\r\n".encode()
    more = {
        "content-encoding": "aws-chunked", "x-amz-trailer": name,
        "x-amz-decoded-content-length": str(size + (5 if spoilt == "length" else 0)),
    }  # fmt: skip
    headers = raw.sign("PUT", f"/{bucket}/k", "", more, body, "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
    connection = http.client.HTTPConnection(raw.host, raw.port, timeout=30)
    connection.request("PUT", f"/{bucket}/k", body=body, headers=headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if spoilt:
        assert answer.status == 400, (answer.status, text)
        assert error(lambda: s3.head_object(Bucket=bucket, Key="k"))[0] == 404
    else:
        assert answer.status == 200, text
        got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
        assert got["Body"].read() == data and got[f"Checksum{algorithm}"] == sum64(algorithm, data)
        assert "aws-chunked" not in got.get("ContentEncoding", "")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def test_multipart_composite(s3, bucket, algorithm):
    bodies = [Content(1, PART).data(), Content(2, 1234).data()]
    upload = begin(s3, bucket, ChecksumAlgorithm=algorithm)
    parts = [send(s3, bucket, upload, n, body, ChecksumAlgorithm=algorithm) for n, body in enumerate(bodies, 1)]
    for part, body in zip(parts, bodies):
        assert part[f"Checksum{algorithm}"] == sum64(algorithm, body)
    done = finish(s3, bucket, upload, parts)
    expected = sum64(algorithm, b"".join(SUMS[algorithm](body) for body in bodies)) + "-2"
    assert done[f"Checksum{algorithm}"] == expected
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == expected and head.get("ChecksumType") == "COMPOSITE"
    assert s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["Body"].read() == b"".join(bodies)


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
def test_multipart_full_object(s3, bucket, algorithm):
    bodies = [Content(1, PART).data(), Content(2, PART + 5).data(), b"end"]
    upload = begin(s3, bucket, ChecksumAlgorithm=algorithm, ChecksumType="FULL_OBJECT")
    parts = [send(s3, bucket, upload, n, body, ChecksumAlgorithm=algorithm) for n, body in enumerate(bodies, 1)]
    whole = b"".join(bodies)
    wrong = {f"Checksum{algorithm}": sum64(algorithm, b"other")}
    assert error(lambda: finish(s3, bucket, upload, parts, ChecksumType="FULL_OBJECT", **wrong))[0] == 400
    right = {f"Checksum{algorithm}": sum64(algorithm, whole)}
    done = finish(s3, bucket, upload, parts, ChecksumType="FULL_OBJECT", **right)
    assert done[f"Checksum{algorithm}"] == sum64(algorithm, whole) and done["ChecksumType"] == "FULL_OBJECT"
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == whole and got[f"Checksum{algorithm}"] == sum64(algorithm, whole)


def test_multipart_wrong_part_checksum(s3, bucket):
    upload = begin(s3, bucket, ChecksumAlgorithm="SHA256")
    part = send(s3, bucket, upload, 1, b"part", ChecksumAlgorithm="SHA256")
    assert error(lambda: finish(s3, bucket, upload, [part | {"ChecksumSHA256": sum64("SHA256", b"other")}]))[0] == 400
    finish(s3, bucket, upload, [part])


def test_attributes(s3, bucket):
    every = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    put = s3.put_object(Bucket=bucket, Key="plain", Body=b"body", ChecksumAlgorithm="CRC32C")
    plain = s3.get_object_attributes(Bucket=bucket, Key="plain", ObjectAttributes=every)
    assert plain["ETag"] == put["ETag"].strip('"') and plain["ObjectSize"] == 4 and plain["StorageClass"] == "STANDARD"
    assert plain["Checksum"]["ChecksumCRC32C"] == sum64("CRC32C", b"body") and "ObjectParts" not in plain
    upload = begin(s3, bucket, ChecksumAlgorithm="SHA256")
    parts = [send(s3, bucket, upload, n, Content(n, PART).data(), ChecksumAlgorithm="SHA256") for n in (1, 2)]
    finish(s3, bucket, upload, parts)
    parted = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=every)
    assert parted["ObjectSize"] == 2 * PART and parted["ObjectParts"]["TotalPartsCount"] == 2
    assert [p["ChecksumSHA256"] for p in parted["ObjectParts"]["Parts"]] == [p["ChecksumSHA256"] for p in parts]
    first = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts"], MaxParts=1)["ObjectParts"]
    assert first["IsTruncated"] and first["NextPartNumberMarker"] == 1 and "ETag" not in first
    assert error(lambda: s3.get_object_attributes(Bucket=bucket, Key="none", ObjectAttributes=every)) == (404, "NoSuchKey")
    no_parts = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectSize"])
    assert "ETag" not in no_parts and no_parts["ObjectSize"] == 2 * PART
