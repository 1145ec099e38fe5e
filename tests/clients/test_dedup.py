"""Deduplication in the artefacts bucket, from outside: what did not change is stored once, every byte comes back, and neither
deletes nor restarts nor kill -9 take what somebody still has."""

from __future__ import annotations

import random
import re
import threading
import time

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.harness import Server, boto3_client

MIB = 1 << 20
BUCKET = "artefacts"


@pytest.fixture(scope="module")
def node():
    with Server() as running:
        running.start()
        yield running


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def shared(server, bucket: str = BUCKET) -> dict[str, int]:
    page = server.admin_get("/metrics")[1]
    return {unit: int(value) for unit, value in re.findall(rf'granary_bucket_shared{{bucket="{bucket}",unit="(\w+)"}} (\d+)', page)}


def body(s3, key: str, **more) -> bytes:
    return s3.get_object(Bucket=BUCKET, Key=key, **more)["Body"].read()


def until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


def multipart(s3, key: str, parts: list[bytes]) -> None:
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    named = []
    for number, part in enumerate(parts, 1):
        etag = s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=part)["ETag"]
        named.append({"PartNumber": number, "ETag": etag})
    s3.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": named})


def empty(s3) -> None:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in page.get("Contents", []):
            s3.delete_object(Bucket=BUCKET, Key=entry["Key"])


def test_a_checkpoint_that_changed_in_part_is_stored_in_part(node):
    s3 = boto3_client(node.endpoint)
    tensors = [noise(n, 3 * MIB) for n in range(20)]
    s3.put_object(Bucket=BUCKET, Key="run/step_1/model.pt", Body=b"step 99" + b"".join(tensors))
    before = shared(node)
    assert before["logical_bytes"] == before["stored_bytes"] == 60 * MIB + 7
    for n in range(14, 20):
        tensors[n] = noise(100 + n, 3 * MIB)
    second = b"step 10000, a longer header" + b"".join(tensors)
    s3.put_object(Bucket=BUCKET, Key="run/step_2/model.pt", Body=second)
    after = shared(node)
    new = (after["stored_bytes"] - before["stored_bytes"]) / len(second)
    assert after["logical_bytes"] - before["logical_bytes"] == len(second)
    assert 0.3 <= new < 0.45, f"{new:.1%} of the second checkpoint was stored"
    assert body(s3, "run/step_2/model.pt") == second
    empty(s3)
    until(lambda: shared(node) == {"logical_bytes": 0, "stored_bytes": 0, "blocks": 0})


def test_ranges_parts_copies_and_deletes_through_restarts_and_kills(node):
    s3 = boto3_client(node.endpoint)
    pieces = [noise(n, 6 * MIB + 17 * n) for n in range(3)]
    kept: dict[str, bytes] = {}
    s3.put_object(Bucket=BUCKET, Key="plain", Body=pieces[0] + pieces[1])
    kept["plain"] = pieces[0] + pieces[1]
    multipart(s3, "multi", [pieces[1], pieces[0], pieces[1], b"end"])
    kept["multi"] = pieces[1] + pieces[0] + pieces[1] + b"end"
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "multi"})
    kept["copy"] = kept["multi"]
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="range-copy")["UploadId"]
    copied = s3.upload_part_copy(
        Bucket=BUCKET, Key="range-copy", UploadId=upload, PartNumber=1,
        CopySource={"Bucket": BUCKET, "Key": "plain"}, CopySourceRange=f"bytes=1000-{6 * MIB + 999}",
    )  # fmt: skip
    parts = [{"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}]
    s3.complete_multipart_upload(Bucket=BUCKET, Key="range-copy", UploadId=upload, MultipartUpload={"Parts": parts})
    kept["range-copy"] = kept["plain"][1000 : 6 * MIB + 1000]
    stored = shared(node)
    assert stored["logical_bytes"] == sum(map(len, kept.values())) - len(b"end"), "a part of three bytes is no block"
    # Parts are cut each by itself, and a copy is one part: the blocks at the edges differ, those within are shared.
    assert stored["stored_bytes"] < stored["logical_bytes"] * 3 // 4

    def check() -> None:
        for key, expected in kept.items():
            assert body(s3, key) == expected, key
            for _ in range(6):
                first = random.randrange(len(expected))
                last = min(len(expected) - 1, first + random.randrange(3 * MIB))
                assert body(s3, key, Range=f"bytes={first}-{last}") == expected[first : last + 1], (key, first, last)

    check()
    for how in ("restart", "kill", "kill"):
        if how == "kill":
            node.kill()
            node.start()
        else:
            node.restart()
        assert shared(node) == stored
        check()
        # One goes each time; what the others have of it stays.
        gone = next(iter(kept))
        s3.delete_object(Bucket=BUCKET, Key=gone)
        del kept[gone]
        blocks = stored["blocks"]
        if how == "restart":
            until(lambda: shared(node)["logical_bytes"] < stored["logical_bytes"])
        time.sleep(6.5)  # past the quarantine of what became idle
        check()
        stored = shared(node)
        assert stored["blocks"] <= blocks
    empty(s3)
    until(lambda: shared(node) == {"logical_bytes": 0, "stored_bytes": 0, "blocks": 0})


def test_killed_while_writing_and_deleting_nothing_acknowledged_is_lost(node):
    """Writers and deleters of objects that share most of their bytes; the node is killed under them again and again."""
    pool = [noise(1000 + n, 700_000) for n in range(8)]
    known: dict[str, bytes | None] = {}
    unsure: set[str] = set()
    lock = threading.Lock()
    stop = threading.Event()

    def work(worker: int) -> None:
        rng = random.Random(worker)
        s3 = boto3_client(node.endpoint)
        while not stop.is_set():
            key = f"w{worker}/{rng.randrange(4)}"
            data = b"".join(rng.choices(pool, k=rng.randrange(2, 7))) if rng.random() < 0.7 else None
            with lock:
                unsure.add(key)
            try:
                if data is None:
                    s3.delete_object(Bucket=BUCKET, Key=key)
                else:
                    s3.put_object(Bucket=BUCKET, Key=key, Body=data)
            except (ClientError, BotoCoreError, OSError):
                time.sleep(0.1)
                continue
            with lock:
                known[key] = data
                unsure.discard(key)

    for round_ in range(3):
        stop.clear()
        workers = [threading.Thread(target=work, args=(round_ * 10 + n,)) for n in range(3)]
        for worker in workers:
            worker.start()
        time.sleep(6)
        node.kill()
        stop.set()
        node.start()
        for worker in workers:
            worker.join()
        s3 = boto3_client(node.endpoint)
        time.sleep(6.5)  # the reaper has been round
        for key, data in known.items():
            if key in unsure:
                continue
            if data is None:
                with pytest.raises(ClientError):
                    s3.head_object(Bucket=BUCKET, Key=key)
            else:
                assert body(s3, key) == data, key
        # What was on its way is whole or not there; whichever, it reads to its end.
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for entry in page.get("Contents", []):
                assert len(body(s3, entry["Key"])) == entry["Size"]
    empty(s3)
    until(lambda: shared(node) == {"logical_bytes": 0, "stored_bytes": 0, "blocks": 0})


def test_other_buckets_share_nothing(node):
    s3 = boto3_client(node.endpoint)
    data = noise(5, 8 * MIB)
    s3.put_object(Bucket="processed", Key="a", Body=data)
    s3.put_object(Bucket="processed", Key="b", Body=data)
    assert shared(node, "processed") == {}
    applied = node.cli("preset", "apply", "ai")
    assert applied.returncode in (0, 1)
    assert re.search(r"artefacts:\s+unchanged", applied.stdout), applied.stdout
