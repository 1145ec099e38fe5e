"""The read cache: what is read again comes from memory, whole and in ranges; it holds what an epoch can use of it."""

from __future__ import annotations

import json
import random

import pytest

from tests.harness import Content, Server, boto3_client
from tests.harness.granary import Signed, make_tar

MIB = 1 << 20


@pytest.fixture
def cached():
    with Server(env={"GRANARY_AI_CACHE_BYTES": str(16 * MIB)}) as server:
        server.start()
        yield server


def status(server, bucket: str) -> tuple[int, int]:
    found = json.loads(server.cli("cache", "status", "--json").stdout)
    assert found["bytes"] <= found["budget_bytes"] == 16 * MIB
    one = next((b for b in found["buckets"] if b["bucket"] == bucket), {"hits": 0, "misses": 0})
    return one["hits"], one["misses"]


def test_reads_from_memory_are_the_same_bytes(cached, bucket_name):
    s3 = boto3_client(cached.endpoint)
    s3.create_bucket(Bucket=bucket_name)
    rng = random.Random(5)
    for number, size in enumerate([20_000, 131_073, 65_520 * 8, 3 * MIB + 17]):
        key, data = f"k{number}", Content(number, size).data()
        s3.put_object(Bucket=bucket_name, Key=key, Body=data)
        for _ in range(3):
            assert s3.get_object(Bucket=bucket_name, Key=key)["Body"].read() == data
        for _ in range(25):
            first = rng.randrange(size)
            last = rng.randrange(first, size)
            got = s3.get_object(Bucket=bucket_name, Key=key, Range=f"bytes={first}-{last}")["Body"].read()
            assert got == data[first : last + 1]
    hits, misses = status(cached, bucket_name)
    assert hits > 2 * misses > 0
    # New bytes under a key are new parts: nothing stale.
    s3.put_object(Bucket=bucket_name, Key="k3", Body=Content(99, 3 * MIB).data())
    assert s3.get_object(Bucket=bucket_name, Key="k3")["Body"].read() == Content(99, 3 * MIB).data()
    page = cached.admin_get("/metrics")[1]
    assert f'granary_cache_chunks_total{{bucket="{bucket_name}",outcome="hit"}} {hits}' in page


def test_epochs_over_twice_its_size_find_close_to_half(cached, bucket_name):
    s3 = boto3_client(cached.endpoint)
    s3.create_bucket(Bucket=bucket_name)
    keys = [f"{n}" for n in range(32)]
    for n, key in enumerate(keys):
        s3.put_object(Bucket=bucket_name, Key=key, Body=Content(n, MIB).data())
    for round in range(24):
        if round == 8:
            before = status(cached, bucket_name)
        for key in keys:
            s3.get_object(Bucket=bucket_name, Key=key)["Body"].read()
    hits, misses = (after - old for after, old in zip(status(cached, bucket_name), before))
    assert hits / (hits + misses) >= 0.45, (hits, misses)


def test_warm_pin_evict(cached, bucket_name):
    s3 = boto3_client(cached.endpoint)
    s3.create_bucket(Bucket=bucket_name)
    s3.put_object(Bucket=bucket_name, Key="d/s.tar", Body=make_tar({f"{n}": Content(n, 50_000).data() for n in range(20)}))
    assert "1 objects" in cached.cli("cache", "pin", f"{bucket_name}/d").stdout
    before = status(cached, bucket_name)
    ask = Signed(cached.endpoint)
    for n in range(20):
        assert ask("GET", f"/{bucket_name}/d/s.tar", {"granary-member": f"{n}"}).body == Content(n, 50_000).data()
    hits, misses = status(cached, bucket_name)
    assert misses == before[1] and hits > before[0], "all of it was there"
    said = cached.cli("cache", "evict", f"{bucket_name}/d").stdout
    assert "1 objects" in said and " 0 chunks" not in said
    s3.get_object(Bucket=bucket_name, Key="d/s.tar")["Body"].read()
    assert status(cached, bucket_name)[1] > misses
    assert cached.cli("cache", "warm", "no-such-bucket-here/x").returncode == 1


def test_switched_off_it_says_so(server, bucket):
    assert "switched off" in server.cli("cache", "warm", f"{bucket}/x").stderr
