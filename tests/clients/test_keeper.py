"""The worker behind the presets' rules: checkpoints by keep-last and keep-every, caches within their size, by use."""

from __future__ import annotations

import time

import pytest

from tests.harness import Content, Server, boto3_client

KIB = 1024


@pytest.fixture(scope="module")
def keeper():
    with Server(preset=None, env={"GRANARY_AI_KEEPER_INTERVAL_MS": "200"}) as server:
        server.start()
        yield server


@pytest.fixture
def s3(keeper):
    return boto3_client(keeper.endpoint)


def apply(keeper, tmp_path, bucket: str, *rules: str) -> None:
    preset = tmp_path / f"{bucket}.toml"
    lines = ["name = 't'", "description = 't'", "[[bucket]]", f"name = '{bucket}'", "description = 't'", *rules]
    preset.write_text("\n".join(lines) + "\n")
    done = keeper.cli("preset", "apply", str(preset))
    assert done.returncode == 0, done.stdout + done.stderr


def keys(s3, bucket: str) -> list[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def until(condition, what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def rounds(keeper, s3, bucket: str) -> None:
    """Returns when the worker has gone round once more: a probe that it must remove is gone."""
    for step in (1, 2, 3, 4):
        s3.put_object(Bucket=bucket, Key=f"probe/step_{step}.pt", Body=b"")
    until(lambda: len([key for key in keys(s3, bucket) if key.startswith("probe/")]) == 2, "the worker went round")


def test_checkpoints_by_rule(keeper, s3, tmp_path):
    apply(keeper, tmp_path, "runs", "keep_last = 2", "keep_every = 100", "abandoned_hours = 1")
    for step in (50, 100, 150, 200, 250, 300):
        for name in ("__0_0.distcp", "__1_0.distcp", ".metadata"):
            s3.put_object(Bucket="runs", Key=f"a/step_{step}/{name}", Body=Content(step, 20 * KIB).data())
    # Newer, but not complete; older, and not complete but touched just now.
    s3.put_object(Bucket="runs", Key="a/step_350/__0_0.distcp", Body=b"x")
    s3.put_object(Bucket="runs", Key="a/step_120/__0_0.distcp", Body=b"x")
    s3.put_object(Bucket="runs", Key="a/config.json", Body=b"{}")
    s3.put_object(Bucket="runs", Key="b/only_step_7.pt", Body=b"x")
    for step in (8, 9, 10):
        s3.put_object(Bucket="runs", Key=f"c/epoch=1-step={step}.ckpt", Body=b"x")
    s3.put_object(Bucket="runs", Key="loose_step_1.pt", Body=b"x")
    rounds(keeper, s3, "runs")

    def left() -> set[str]:
        return {key.rsplit("/", 1)[0] if key.startswith("a/step") else key for key in keys(s3, "runs")}

    expected = {
        "a/step_100", "a/step_200", "a/step_250", "a/step_300",  # the newest two, and every hundredth
        "a/step_350", "a/step_120", "a/config.json", "b/only_step_7.pt", "c/epoch=1-step=10.ckpt", "c/epoch=1-step=9.ckpt",
        "loose_step_1.pt", "probe/step_3.pt", "probe/step_4.pt",
    }  # fmt: skip
    until(lambda: left() == expected, f"left: {left()}")
    for step in (100, 200, 250, 300):
        assert len([key for key in keys(s3, "runs") if key.startswith(f"a/step_{step}/")]) == 3, "whole or gone"
    # A new one moves the window; an incomplete one never did.
    s3.put_object(Bucket="runs", Key="a/step_350/.metadata", Body=b"x")
    until(lambda: "a/step_250" not in left(), "the third newest goes")
    assert left() >= {"a/step_300", "a/step_350", "a/step_200"}


def test_caches_stay_within_their_size_and_keep_what_is_used(keeper, s3, tmp_path):
    size = 100 * KIB
    apply(keeper, tmp_path, "scratch", f"cache_bytes = {12 * size}")
    s3.put_object(Bucket="scratch", Key="frozen/0", Body=Content(0, size).data())
    assert keeper.cli("dataset", "freeze", "scratch/frozen").returncode == 0
    for n in range(10):
        s3.put_object(Bucket="scratch", Key=f"k{n}", Body=Content(n, size).data())
    assert len([key for key in keys(s3, "scratch") if key.startswith("k")]) == 10, "within its size nothing goes"
    time.sleep(1.1)  # use is remembered by the second
    for n in (0, 1, 2):
        s3.get_object(Bucket="scratch", Key=f"k{n}")["Body"].read()
    time.sleep(1.1)
    for n in range(10, 14):
        s3.put_object(Bucket="scratch", Key=f"k{n}", Body=Content(n, size).data())

    def total() -> int:
        page = s3.list_objects_v2(Bucket="scratch")
        return sum(entry["Size"] for entry in page["Contents"])

    until(lambda: total() <= 12 * size, f"{total()} bytes are left")
    left = keys(s3, "scratch")
    assert {"k0", "k1", "k2", "k10", "k11", "k12", "k13"} <= set(left), "what was used last stays"
    assert "frozen/0" in left, "a frozen dataset is nobody's to remove"
    assert [key for key in ("k3", "k4") if key in left] == [], "the longest unused went first"
    for key in left:
        if key.startswith("k"):
            assert s3.get_object(Bucket="scratch", Key=key)["Body"].read() == Content(int(key[1:]), size).data()
