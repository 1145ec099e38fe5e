"""Multipart uploads: create, upload, copy, list, complete, abort, and all that may go wrong on the way."""

from __future__ import annotations

import io

import pytest
from boto3.s3.transfer import TransferConfig

from tests.harness import Content

from .test_boto3_core import error

MIB = 1024 * 1024
PART = 5 * MIB


def begin(s3, bucket, key="k", **more) -> str:
    return s3.create_multipart_upload(Bucket=bucket, Key=key, **more)["UploadId"]


def send(s3, bucket, upload, number, body, key="k", **more) -> dict:
    answer = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body, **more)
    kept = {name: value for name, value in answer.items() if name.startswith("Checksum") and name != "ChecksumType"}
    return {"PartNumber": number, "ETag": answer["ETag"]} | kept


def finish(s3, bucket, upload, parts, key="k", **more) -> dict:
    return s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **more)


def test_three_parts(s3, bucket):
    bodies = [Content(1, PART).data(), Content(2, PART + 12_345).data(), Content(3, 17).data()]
    upload = begin(s3, bucket, Metadata={"a": "b"}, ContentType="application/x-npz")
    assert error(lambda: s3.head_object(Bucket=bucket, Key="k"))[0] == 404
    parts = [send(s3, bucket, upload, n, bodies[n - 1]) for n in (3, 1, 2)]
    answer = finish(s3, bucket, upload, sorted(parts, key=lambda p: p["PartNumber"]))
    whole = b"".join(bodies)
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == whole
    assert got["Metadata"] == {"a": "b"} and got["ContentType"] == "application/x-npz"
    assert got["ETag"] == answer["ETag"] and answer["ETag"].strip('"').endswith("-3")
    for first, last in [(0, 10), (PART - 5, PART + 5), (PART * 2, len(whole) - 1), (PART - 1, len(whole) - 2)]:
        ranged = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={first}-{last}")
        assert ranged["Body"].read() == whole[first : last + 1], (first, last)
    second = s3.get_object(Bucket=bucket, Key="k", PartNumber=2)
    assert second["Body"].read() == bodies[1] and second["PartsCount"] == 3
    assert s3.head_object(Bucket=bucket, Key="k", PartNumber=3)["ContentLength"] == 17
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_numbers_with_gaps(s3, bucket):
    upload = begin(s3, bucket)
    parts = [send(s3, bucket, upload, n, Content(n, PART).data()) for n in (7, 500)] + [send(s3, bucket, upload, 10_000, b"end")]
    finish(s3, bucket, upload, parts)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == Content(7, PART).data() + Content(500, PART).data() + b"end"


def test_part_sent_again_replaces(s3, bucket):
    upload = begin(s3, bucket)
    old = send(s3, bucket, upload, 1, b"old")
    new = send(s3, bucket, upload, 1, b"newer")
    assert error(lambda: finish(s3, bucket, upload, [old])) == (400, "InvalidPart")
    finish(s3, bucket, upload, [new])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"newer"


def test_unlisted_parts_are_left_out(s3, bucket):
    upload = begin(s3, bucket)
    parts = [send(s3, bucket, upload, n, f"part {n}".encode()) for n in (1, 2)]
    finish(s3, bucket, upload, parts[1:])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"part 2"


def test_refusals(s3, bucket):
    upload = begin(s3, bucket)
    small, other = send(s3, bucket, upload, 1, b"small"), send(s3, bucket, upload, 2, b"x")
    assert error(lambda: finish(s3, bucket, upload, [small, other])) == (400, "EntityTooSmall")
    assert error(lambda: finish(s3, bucket, upload, [other, small])) == (400, "InvalidPartOrder")
    assert error(lambda: finish(s3, bucket, upload, [{"PartNumber": 3, "ETag": small["ETag"]}])) == (400, "InvalidPart")
    assert error(lambda: finish(s3, bucket, upload, [])) == (400, "MalformedXML")
    for number in (0, 10_001):
        assert error(lambda number=number: send(s3, bucket, upload, number, b"x")) == (400, "InvalidArgument")
    assert error(lambda: send(s3, bucket, "no-such-upload", 1, b"x")) == (404, "NoSuchUpload")
    assert error(lambda: send(s3, bucket, upload, 1, b"x", key="other")) == (404, "NoSuchUpload")
    # All these refusals left the upload open.
    finish(s3, bucket, upload, [small])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"small"


def test_abort(s3, bucket):
    upload = begin(s3, bucket)
    send(s3, bucket, upload, 1, b"x")
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)
    assert error(lambda: s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)) == (404, "NoSuchUpload")
    assert error(lambda: send(s3, bucket, upload, 2, b"x")) == (404, "NoSuchUpload")
    assert error(lambda: s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)) == (404, "NoSuchUpload")
    assert error(lambda: s3.head_object(Bucket=bucket, Key="k"))[0] == 404


def test_complete_again_is_the_same(s3, bucket):
    """A client whose answer was lost asks again: S3 says 200 once more, or that the upload is gone."""
    upload = begin(s3, bucket)
    parts = [send(s3, bucket, upload, 1, b"once")]
    etag = finish(s3, bucket, upload, parts)["ETag"]
    try:
        assert finish(s3, bucket, upload, parts)["ETag"] == etag
    except s3.exceptions.ClientError as refused:
        assert refused.response["Error"]["Code"] == "NoSuchUpload"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"once"


def test_list_parts_pages(s3, bucket):
    upload = begin(s3, bucket)
    for number in range(1, 12):
        send(s3, bucket, upload, number, b"x" * number)
    first = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload, MaxParts=4)
    assert [p["PartNumber"] for p in first["Parts"]] == [1, 2, 3, 4]
    assert first["IsTruncated"] and first["NextPartNumberMarker"] == 4
    pages = s3.get_paginator("list_parts").paginate(Bucket=bucket, Key="k", UploadId=upload, PaginationConfig={"PageSize": 3})
    assert [(p["PartNumber"], p["Size"]) for page in pages for p in page["Parts"]] == [(n, n) for n in range(1, 12)]


def test_list_uploads(s3, bucket):
    wanted = sorted([("a/1", begin(s3, bucket, "a/1")), ("a/2", begin(s3, bucket, "a/2")), ("b", begin(s3, bucket, "b"))])
    found = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert sorted((u["Key"], u["UploadId"]) for u in found) == wanted
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, PaginationConfig={"PageSize": 1})
    assert [(u["Key"], u["UploadId"]) for page in pages for u in page.get("Uploads", [])] == wanted
    below = s3.list_multipart_uploads(Bucket=bucket, Prefix="a/")["Uploads"]
    assert [u["Key"] for u in below] == ["a/1", "a/2"]
    rolled = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [p["Prefix"] for p in rolled["CommonPrefixes"]] == ["a/"] and [u["Key"] for u in rolled["Uploads"]] == ["b"]


def test_upload_part_copy(s3, bucket):
    source = Content(4, 2 * PART + 99).data()
    etag = s3.put_object(Bucket=bucket, Key="from", Body=source)["ETag"]
    upload = begin(s3, bucket)
    copy = lambda number, **c: s3.upload_part_copy(  # noqa: E731
        Bucket=bucket, Key="k", UploadId=upload, PartNumber=number, CopySource={"Bucket": bucket, "Key": "from"}, **c
    )
    one = copy(1, CopySourceRange=f"bytes=100-{100 + PART - 1}", CopySourceIfMatch=etag)["CopyPartResult"]
    two = copy(2, CopySourceRange="bytes=7-9")["CopyPartResult"]
    assert error(lambda: copy(3, CopySourceRange=f"bytes=0-{len(source)}"))[0] in (400, 416)
    assert error(lambda: copy(3, CopySourceIfMatch='"00"')) == (412, "PreconditionFailed")
    finish(s3, bucket, upload, [{"PartNumber": 1, "ETag": one["ETag"]}, {"PartNumber": 2, "ETag": two["ETag"]}])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == source[100 : 100 + PART] + source[7:10]


def test_transfer_manager(s3, bucket):
    """boto3's own upload_fileobj and download_fileobj: parallel parts up, parallel ranges (with If-Match) down."""
    data = Content(8, 38 * MIB + 1).data()
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=6)
    s3.upload_fileobj(io.BytesIO(data), bucket, "k", Config=config)
    out = io.BytesIO()
    s3.download_fileobj(bucket, "k", out, Config=config)
    assert out.getvalue() == data
    s3.copy({"Bucket": bucket, "Key": "k"}, bucket, "copy", Config=config)
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == data


def test_complete_races_abort_and_overwrite(server, s3, bucket):
    """Whoever wins, the outcome is one of those possible: no half object, no upload left that is both."""
    from tests.harness import RawClient

    from .test_boto3_conditions import together

    body = Content(2, PART).data()
    for turn in range(4):
        key = f"k{turn}"
        upload = begin(s3, bucket, key)
        part = send(s3, bucket, upload, 1, body, key)

        def act(index: int, key=key, upload=upload, part=part) -> int:
            client = RawClient("127.0.0.1", server.port)
            if index % 2:
                status = client.complete_upload(bucket, key, upload, [(1, part["ETag"])]).status
            else:
                status = client.abort_upload(bucket, key, upload).status
            client.close()
            return status

        completed, aborted = (lambda s: (s[1::2], s[0::2]))(together(6, act))
        listing = s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
        if 200 in completed:
            assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body
            assert listing and 204 not in aborted, (completed, aborted)
        else:
            assert not listing and 204 in aborted, (completed, aborted)
