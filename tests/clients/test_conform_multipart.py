"""Multipart uploads as S3's own test suites ask for them."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest

from tests.harness import Content
from tests.harness.failure import failure

MIB = 1024 * 1024
PART = 5 * MIB


def begin(s3, bucket: str, key: str = "k", **more) -> str:
    return s3.create_multipart_upload(Bucket=bucket, Key=key, **more)["UploadId"]


def send(s3, bucket: str, upload: str, number: int, body: bytes, key: str = "k", **more) -> dict:
    return s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body, **more)


def finish(s3, bucket: str, upload: str, parts: list[tuple[int, str]], key: str = "k", **more) -> dict:
    named = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
    return s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": named}, **more)


def body(size: int, number: int = 1) -> bytes:
    return Content(number, size).data()


def test_three_parts(s3, bucket):
    upload = begin(s3, bucket, ContentType="text/bla", Metadata={"foo": "bar"})
    bodies = [body(PART, 1), body(PART + 7, 2), body(100, 3)]
    etags = [(n, send(s3, bucket, upload, n, b)["ETag"]) for n, b in enumerate(bodies, 1)]
    assert failure(s3.get_object, Bucket=bucket, Key="k") == (404, "NoSuchKey")
    done = finish(s3, bucket, upload, etags)
    assert done["Bucket"] == bucket and done["Key"] == "k" and done["ETag"].endswith('-3"')
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"".join(bodies)
    assert (got["ContentType"], got["Metadata"], got["ETag"]) == ("text/bla", {"foo": "bar"}, done["ETag"])
    # What was acknowledged once is acknowledged again; after another write it is no more.
    assert finish(s3, bucket, upload, etags)["ETag"] == done["ETag"]
    for number, part in enumerate(bodies, 1):
        for answer in (s3.head_object, s3.get_object):
            said = answer(Bucket=bucket, Key="k", PartNumber=number)
            assert (said["PartsCount"], said["ETag"], said["ContentLength"]) == (3, done["ETag"], len(part))
        assert said["Body"].read() == part
    assert failure(s3.get_object, Bucket=bucket, Key="k", PartNumber=4) == (416, "InvalidPartNumber")


def test_parts_of_a_plain_object(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"whole")
    said = s3.get_object(Bucket=bucket, Key="k", PartNumber=1)
    assert said["Body"].read() == b"whole" and "PartsCount" not in said
    assert failure(s3.get_object, Bucket=bucket, Key="k", PartNumber=2) == (416, "InvalidPartNumber")
    for number in (0, 10_001):
        assert failure(s3.get_object, Bucket=bucket, Key="k", PartNumber=number) == (400, "InvalidArgument")


def test_what_complete_refuses(s3, bucket):
    upload = begin(s3, bucket)
    small = send(s3, bucket, upload, 1, b"small")["ETag"]
    last = send(s3, bucket, upload, 2, b"last")["ETag"]
    for parts, answer in [
        ([], (400, "MalformedXML")),
        ([(1, small), (2, last)], (400, "EntityTooSmall")),
        ([(2, last), (1, small)], (400, "InvalidPartOrder")),
        ([(1, small), (1, small)], (400, "InvalidPartOrder")),
        ([(9999, small)], (400, "InvalidPart")),
        ([(1, "ffffffffffffffffffffffffffffffff")], (400, "InvalidPart")),
        ([(0, small)], (400, "InvalidArgument")),
    ]:
        assert failure(finish, s3=s3, bucket=bucket, upload=upload, parts=parts) == answer, parts
    assert failure(finish, s3=s3, bucket=bucket, upload="56788", parts=[(1, small)]) == (404, "NoSuchUpload")
    assert failure(finish, s3=s3, bucket=bucket, upload=upload, parts=[(1, small)], key="other") == (404, "NoSuchUpload")
    # Nothing of that ended the upload. ETags without quotes are as good.
    assert finish(s3, bucket, upload, [(2, last.strip('"'))])["ETag"].endswith('-1"')
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"last"


def test_a_part_sent_again_replaces_the_first(s3, bucket):
    upload = begin(s3, bucket)
    old = send(s3, bucket, upload, 1, body(PART, 1))["ETag"]
    new = send(s3, bucket, upload, 1, body(PART, 2))["ETag"]
    assert failure(finish, s3=s3, bucket=bucket, upload=upload, parts=[(1, old)]) == (400, "InvalidPart")
    finish(s3, bucket, upload, [(1, new)])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body(PART, 2)


def test_abort(s3, bucket):
    upload = begin(s3, bucket)
    etag = send(s3, bucket, upload, 1, b"x")["ETag"]
    named = {"Bucket": bucket, "Key": "k", "UploadId": upload}
    assert s3.abort_multipart_upload(**named)["ResponseMetadata"]["HTTPStatusCode"] == 204
    gone = (404, "NoSuchUpload")
    assert failure(s3.abort_multipart_upload, **(named | {"UploadId": "56788"})) == gone
    assert failure(send, s3=s3, bucket=bucket, upload=upload, number=1, body=b"x") == gone
    assert failure(s3.list_parts, **named) == gone
    assert failure(finish, s3=s3, bucket=bucket, upload=upload, parts=[(1, etag)]) == gone
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_listing_of_parts(s3, bucket):
    upload = begin(s3, bucket, StorageClass="STANDARD_IA")
    etags = [send(s3, bucket, upload, n, b"x" * n)["ETag"] for n in (1, 2, 5)]
    said = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)
    assert [(p["PartNumber"], p["Size"], p["ETag"]) for p in said["Parts"]] == list(zip((1, 2, 5), (1, 2, 5), etags))
    assert (said["StorageClass"], said["MaxParts"], said["IsTruncated"]) == ("STANDARD_IA", 1000, False)
    assert said["Owner"]["ID"] == said["Initiator"]["ID"] and said["Owner"]["DisplayName"]
    page = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload, MaxParts=2)
    assert (page["IsTruncated"], page["NextPartNumberMarker"]) == (True, 2)
    rest = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload, PartNumberMarker=2)
    assert ([p["PartNumber"] for p in rest["Parts"]], rest["PartNumberMarker"]) == ([5], 2)


def test_listing_of_uploads(s3, bucket):
    wanted = [("a", begin(s3, bucket, "a")), ("b/1", begin(s3, bucket, "b/1")), ("b/1", begin(s3, bucket, "b/1")), ("c ü", begin(s3, bucket, "c ü"))]
    said = s3.list_multipart_uploads(Bucket=bucket)
    assert [(u["Key"], u["UploadId"]) for u in said["Uploads"]] == wanted
    assert {u["Initiator"]["ID"] for u in said["Uploads"]} == {u["Owner"]["ID"] for u in said["Uploads"]}
    seen, more = [], {}
    while True:
        page = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=1, **more)
        seen += [(u["Key"], u["UploadId"]) for u in page["Uploads"]]
        if not page["IsTruncated"]:
            break
        more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    assert seen == wanted
    rolled = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [p["Prefix"] for p in rolled["CommonPrefixes"]] == ["b/"]
    assert len(s3.list_multipart_uploads(Bucket=bucket, Prefix="b/")["Uploads"]) == 2
    for key, upload in wanted:
        s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    s3.delete_bucket(Bucket=bucket)


def test_part_numbers_and_conditions(s3, bucket):
    upload = begin(s3, bucket)
    for number in (0, 10_001, -1):
        assert failure(send, s3=s3, bucket=bucket, upload=upload, number=number, body=b"x") == (400, "InvalidArgument")
    etag = send(s3, bucket, upload, 10_000, b"x")["ETag"]
    s3.put_object(Bucket=bucket, Key="k", Body=b"there")
    none = {"IfNoneMatch": "*"}
    assert failure(finish, s3=s3, bucket=bucket, upload=upload, parts=[(10_000, etag)], **none) == (412, "PreconditionFailed")
    s3.delete_object(Bucket=bucket, Key="k")
    assert failure(finish, s3=s3, bucket=bucket, upload=upload, parts=[(10_000, etag)], IfMatch='"x"') == (404, "NoSuchKey")
    finish(s3, bucket, upload, [(10_000, etag)], **none)


# --- checksums ---------------------------------------------------------------------------------------------------


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def test_composite_checksums_are_asked_of_every_part(s3, bucket):
    bodies = [body(PART, 1), b"last"]
    sums = [sha256(b) for b in bodies]
    upload = begin(s3, bucket, ChecksumAlgorithm="SHA256")
    etags = [send(s3, bucket, upload, n, b, ChecksumAlgorithm="SHA256")["ETag"] for n, b in enumerate(bodies, 1)]
    whole = text(sha256(b"".join(sums)))

    def complete(first: dict, **more):
        parts = [{"PartNumber": 1, "ETag": etags[0]} | first, {"PartNumber": 2, "ETag": etags[1], "ChecksumSHA256": text(sums[1])}]
        return s3.complete_multipart_upload(
            Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": parts}, **more
        )

    right = {"ChecksumSHA256": text(sums[0])}
    invalid = (400, "InvalidRequest")
    assert failure(complete, first=right, ChecksumSHA256="bad") == invalid
    assert failure(complete, first={}) == invalid
    assert failure(complete, first={"ChecksumSHA256": "bad"}) == invalid
    assert failure(complete, first={"ChecksumSHA256": text(sums[1])}) == (400, "InvalidPart")
    assert failure(complete, first=right, ChecksumSHA256=text(sums[1])) == (400, "BadDigest")
    done = complete(first=right, ChecksumSHA256=whole)
    assert (done["ChecksumSHA256"], done["ChecksumType"]) == (whole + "-2", "COMPOSITE")
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head["ChecksumSHA256"], head["ChecksumType"]) == (whole + "-2", "COMPOSITE")
    said = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["Checksum", "ObjectParts", "ETag", "ObjectSize", "StorageClass"])
    assert said["Checksum"]["ChecksumSHA256"] == whole
    assert [(p["PartNumber"], p["Size"], p["ChecksumSHA256"]) for p in said["ObjectParts"]["Parts"]] == [
        (1, PART, text(sums[0])), (2, 4, text(sums[1]))
    ]  # fmt: skip
    assert (said["ObjectParts"]["TotalPartsCount"], said["ObjectSize"], said["StorageClass"]) == (2, PART + 4, "STANDARD")
    page = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts"], MaxParts=1)["ObjectParts"]
    assert (page["IsTruncated"], page["NextPartNumberMarker"], page["MaxParts"]) == (True, 1, 1)
    rest = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts"], PartNumberMarker=1)["ObjectParts"]
    assert [p["PartNumber"] for p in rest["Parts"]] == [2] and rest["PartNumberMarker"] == 1


def test_full_object_checksums(s3, bucket):
    bodies = [body(PART, 1), b"last"]
    upload = begin(s3, bucket, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    parts = [(n, send(s3, bucket, upload, n, b, ChecksumAlgorithm="CRC32")["ETag"]) for n, b in enumerate(bodies, 1)]
    whole = text(zlib.crc32(b"".join(bodies)).to_bytes(4, "big"))
    wrong = text(b"\0\0\0\0")
    assert failure(
        finish, s3=s3, bucket=bucket, upload=upload, parts=parts, ChecksumCRC32=wrong, ChecksumType="FULL_OBJECT"
    ) == (400, "BadDigest")  # fmt: skip
    done = finish(s3, bucket, upload, parts, ChecksumCRC32=whole, ChecksumType="FULL_OBJECT", MpuObjectSize=PART + 4)
    assert (done["ChecksumCRC32"], done["ChecksumType"]) == (whole, "FULL_OBJECT")
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (got["ChecksumCRC32"], got["Body"].read()) == (whole, b"".join(bodies))


def test_algorithms_that_do_not_agree(s3, bucket):
    for algorithm, kind in [("SHA256", "FULL_OBJECT"), ("SHA1", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE")]:
        assert failure(s3.create_multipart_upload, Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm, ChecksumType=kind) == (400, "InvalidRequest")
    upload = begin(s3, bucket, ChecksumAlgorithm="SHA256")
    mismatch = {"s3": s3, "bucket": bucket, "upload": upload, "number": 1, "body": b"x"}
    assert failure(send, **mismatch, ChecksumAlgorithm="CRC32") == (400, "InvalidRequest")
    assert failure(send, **mismatch, ChecksumSHA256=text(sha256(b"y"))) == (400, "BadDigest")
    assert failure(send, **mismatch, ChecksumSHA256="bad") == (400, "InvalidRequest")


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1])
def test_one_part_of_any_size(s3, bucket, size):
    upload = begin(s3, bucket)
    etag = send(s3, bucket, upload, 1, body(size))["ETag"]
    finish(s3, bucket, upload, [(1, etag)])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body(size)
