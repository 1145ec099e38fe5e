"""Preconditions on reads and on writes; races that exactly one client may win."""

from __future__ import annotations

import datetime
import threading

import pytest
from botocore.exceptions import ClientError

from tests.harness import Content, RawClient

from .test_boto3_core import error

RACERS = 64
WRONG_ETAG = '"0123456789abcdef0123456789abcdef"'


def test_reads(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"body")["ETag"]
    now = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    past, future = now - datetime.timedelta(hours=1), now + datetime.timedelta(hours=1)
    for good in (
        {"IfMatch": etag}, {"IfMatch": "*"}, {"IfNoneMatch": WRONG_ETAG}, {"IfModifiedSince": past}, {"IfUnmodifiedSince": now},
        {"IfMatch": etag, "IfUnmodifiedSince": past}, {"IfNoneMatch": WRONG_ETAG, "IfModifiedSince": now},
    ):  # fmt: skip
        assert s3.get_object(Bucket=bucket, Key="k", **good)["Body"].read() == b"body", good
        s3.head_object(Bucket=bucket, Key="k", **good)
    for bad, status in (
        ({"IfMatch": WRONG_ETAG}, 412), ({"IfNoneMatch": etag}, 304), ({"IfNoneMatch": "*"}, 304), ({"IfModifiedSince": now}, 304),
        ({"IfUnmodifiedSince": past}, 412), ({"IfNoneMatch": etag, "IfModifiedSince": past}, 304),
    ):  # fmt: skip
        assert error(lambda bad=bad: s3.get_object(Bucket=bucket, Key="k", **bad))[0] == status, bad
        assert error(lambda bad=bad: s3.head_object(Bucket=bucket, Key="k", **bad))[0] == status, bad
    assert s3.get_object(Bucket=bucket, Key="k", IfMatch=f'{WRONG_ETAG}, {etag}')["Body"].read() == b"body"
    assert future > now


@pytest.mark.parametrize("size", [64, 100_000, 700_000])
def test_writes(s3, bucket, size):
    first, second, third = (Content(n, size).data() for n in range(3))
    put = lambda body, **c: s3.put_object(Bucket=bucket, Key="k", Body=body, **c)  # noqa: E731
    assert error(lambda: put(first, IfMatch=WRONG_ETAG)) == (404, "NoSuchKey")
    etag = put(first, IfNoneMatch="*")["ETag"]
    assert error(lambda: put(second, IfNoneMatch="*")) == (412, "PreconditionFailed")
    assert error(lambda: put(second, IfMatch=WRONG_ETAG)) == (412, "PreconditionFailed")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == first
    put(second, IfMatch=etag)
    assert error(lambda: put(third, IfMatch=etag)) == (412, "PreconditionFailed")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == second


def test_delete(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    assert error(lambda: s3.delete_object(Bucket=bucket, Key="k", IfMatch=WRONG_ETAG)) == (412, "PreconditionFailed")
    assert s3.head_object(Bucket=bucket, Key="k")["ETag"] == etag
    s3.delete_object(Bucket=bucket, Key="k", IfMatch=etag)
    assert error(lambda: s3.head_object(Bucket=bucket, Key="k"))[0] == 404


def test_copy_source(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="from", Body=b"x")["ETag"]
    source = {"Bucket": bucket, "Key": "from"}
    copy = lambda **c: s3.copy_object(Bucket=bucket, Key="to", CopySource=source, **c)  # noqa: E731
    assert error(lambda: copy(CopySourceIfMatch=WRONG_ETAG)) == (412, "PreconditionFailed")
    assert error(lambda: copy(CopySourceIfNoneMatch=etag)) == (412, "PreconditionFailed")
    assert error(lambda: s3.head_object(Bucket=bucket, Key="to"))[0] == 404
    copy(CopySourceIfMatch=etag)
    assert error(lambda: copy(IfNoneMatch="*")) == (412, "PreconditionFailed")


def test_complete_multipart(s3, bucket):
    def upload(**condition):
        made = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
        part = s3.upload_part(Bucket=bucket, Key="k", UploadId=made, PartNumber=1, Body=b"part")
        return s3.complete_multipart_upload(
            Bucket=bucket, Key="k", UploadId=made, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}, **condition
        )  # fmt: skip

    assert error(lambda: upload(IfMatch=WRONG_ETAG))[0] in (404, 412)
    etag = upload(IfNoneMatch="*")["ETag"]
    assert error(lambda: upload(IfNoneMatch="*")) == (412, "PreconditionFailed")
    assert error(lambda: upload(IfMatch=WRONG_ETAG)) == (412, "PreconditionFailed")
    upload(IfMatch=etag)


# --- races ---------------------------------------------------------------------------------------------------


def together(count: int, act) -> list:
    """Runs act(i) in `count` threads, let loose at once."""
    gate = threading.Barrier(count)
    results: list = [None] * count

    def one(index: int) -> None:
        gate.wait()
        try:
            results[index] = act(index)
        except BaseException as failure:  # noqa: BLE001 - handed to the test
            results[index] = failure

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.mark.parametrize("size", [100, 30_000, 200_000])
def test_create_once(server, s3, bucket, size):
    """64 writers with `If-None-Match: *`: exactly one is told 200, and it is its bytes that stay."""
    contents = [Content(n, size) for n in range(RACERS)]

    def write(index: int) -> int:
        client = RawClient("127.0.0.1", server.port)
        reply = client.put(bucket, "once", contents[index].data(), if_none_match="*")
        client.close()
        return reply.status

    statuses = together(RACERS, write)
    winners = [i for i, status in enumerate(statuses) if status == 200]
    assert len(winners) == 1, statuses
    assert set(statuses) <= {200, 409, 412}, statuses
    assert s3.get_object(Bucket=bucket, Key="once")["Body"].read() == contents[winners[0]].data()


def test_swap_once(server, s3, bucket):
    """64 writers with the same `If-Match`: one wins."""
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"0")["ETag"]

    def write(index: int) -> int:
        client = RawClient("127.0.0.1", server.port)
        reply = client.put(bucket, "k", str(index).encode(), if_match=etag)
        client.close()
        return reply.status

    statuses = together(RACERS, write)
    winners = [i for i, status in enumerate(statuses) if status == 200]
    assert len(winners) == 1 and set(statuses) <= {200, 409, 412}, statuses
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == str(winners[0]).encode()


def test_counter_loses_nothing(server, s3, bucket):
    """Compare-and-swap by 16 clients with retries: as many raises as were acknowledged."""
    s3.put_object(Bucket=bucket, Key="n", Body=b"0")

    def raise_it(_: int) -> int:
        client = RawClient("127.0.0.1", server.port)
        done = 0
        while done < 5:
            now = client.get(bucket, "n")
            reply = client.put(bucket, "n", str(int(now.body) + 1).encode(), if_match=now.etag)
            assert reply.status in (200, 409, 412), reply
            done += reply.status == 200
        client.close()
        return done

    assert sum(together(16, raise_it)) == 80
    assert s3.get_object(Bucket=bucket, Key="n")["Body"].read() == b"80"


def test_last_writer_is_whole(server, s3, bucket):
    """Unconditional writers of one key, readers beside them: whoever reads sees one write, whole."""
    size = 300_000
    contents = {Content(n, size).data()[:64]: Content(n, size).data() for n in range(12)}
    bodies = list(contents.values())
    s3.put_object(Bucket=bucket, Key="k", Body=bodies[0])

    def act(index: int) -> None:
        client = RawClient("127.0.0.1", server.port)
        for turn in range(10):
            if index % 2:
                assert client.put(bucket, "k", bodies[(index + turn) % 12]).status == 200
            else:
                body = client.get(bucket, "k").body
                assert body == contents.get(body[:64]), f"a mixture: {len(body)} bytes, {body[:40]!r}"
        client.close()

    together(12, act)


def test_delete_and_create_race(server, s3, bucket):
    """One deletes, others create once: every acknowledged create follows an acknowledged absence."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")

    def act(index: int) -> int:
        client = RawClient("127.0.0.1", server.port)
        if index == 0:
            status = client.delete(bucket, "k").status
        else:
            status = client.put(bucket, "k", str(index).encode(), if_none_match="*").status
        client.close()
        return status

    statuses = together(16, act)
    assert statuses[0] == 204
    winners = [i for i, status in enumerate(statuses) if i and status == 200]
    assert len(winners) <= 1, statuses
    try:
        left = s3.get_object(Bucket=bucket, Key="k")["Body"].read()
        assert [left] == [str(i).encode() for i in winners]
    except ClientError:
        assert not winners
