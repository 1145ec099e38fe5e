"""`granary bench` against a running node: every way of reading, the search, checkpoints; what is asked wrongly is named."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.harness import client_env

SMALL = ["--data-size", "2MB", "--sample-bytes", "4000", "--samples-per-object", "64", "--batch", "16", "--seconds", "0.5",
         "--compute-ms", "20", "--verify", "1", "--readers", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def place():
    return f"bench-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def bench(server, place):
    import subprocess

    def run(*arguments: str, status: int = 0) -> str:
        done = subprocess.run([str(server.binary), "bench", *arguments, "--bucket", place], env=client_env(server.endpoint),
                              capture_output=True, text=True, timeout=300)  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.mark.parametrize("by", ["stream", "range", "member", "batch", "epoch"])
def test_every_way_of_reading_shards(bench, server, place, tmp_path, by):
    made = ["training", "--profile", "webdataset", *SMALL, "--prefix", "w/"]
    bench(*made, "--prepare-only")
    if by == "epoch":
        assert server.cli("dataset", "freeze", f"{place}/w/webdataset").returncode == 0
    figures = tmp_path / "figures.json"
    said = bench(*made, "--by", by, "--accelerators", "2", "--busy", "1", "--json", str(figures))
    assert "2 accelerators are kept at least 1 % busy" in said
    told = json.loads(figures.read_text())
    assert told["accelerators_busy"] == 2 and told["shape"]["by"] == by and told["samples"] == 7 * 64
    (run,) = told["runs"]
    assert 0 < run["utilisation_percent"] <= 100 and run["batches"] >= 10 and run["mb_per_s"] > 0


def test_epochs_ask_for_a_frozen_data_set(bench):
    made = ["training", "--profile", "webdataset", *SMALL, "--prefix", "thawed/", "--by", "epoch", "--accelerators", "1"]
    assert "dataset freeze" in bench(*made, status=1)


def test_the_search_finds_how_many_stay_busy(bench, tmp_path):
    made = ["training", "--profile", "llm", "--data-size", "4MB", "--samples-per-object", "16", "--seconds", "0.3", "--compute-ms", "40",
            "--batch", "2", "--busy", "30", "--accelerators-max", "3", "--json", str(tmp_path / "f")]  # fmt: skip
    said = bench(*made)
    told = json.loads((tmp_path / "f").read_text())
    assert [run["accelerators"] for run in told["runs"]][0] == 1 and 1 <= (told["accelerators_busy"] or 1) <= 3
    assert "busy" in said
    assert "made with other settings" in bench("training", "--profile", "llm", "--data-size", "8MB", "--accelerators", "1", status=1)


def test_more_than_it_feeds_is_a_status_of_1(bench):
    made = ["training", "--profile", "unet3d", "--sample-bytes", "4MB", "--data-size", "16MB", "--batch", "4", "--seconds", "0.3"]
    assert "NOT kept" in bench(*made, "--compute-ms", "1", "--accelerators", "2", status=1)


def test_checkpoints_are_saved_and_restored(bench, s3, place, tmp_path):
    figures = tmp_path / "figures.json"
    said = bench("checkpoint", "--size", "45MB", "--ranks", "3", "--part-size", "5MiB", "--rounds", "2", "--verify", "1", "--keep",
                 "--json", str(figures))  # fmt: skip
    assert "stands the accelerators still" in said
    told = json.loads(figures.read_text())
    assert [one["what"] for one in told["rounds"]] == ["save", "restore"] * 2 and told["save_s"] > 0
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=place, Prefix="checkpoint/")["Contents"]]
    assert len(keys) == 2 * 4 and "checkpoint/step_00000002/.metadata" in keys
    bench("checkpoint", "--size", "1MB", "--ranks", "2", "--rounds", "1", "--prefix", "gone/")
    assert "Contents" not in s3.list_objects_v2(Bucket=place, Prefix="gone/")


def test_what_cannot_be_is_named(bench, server):
    assert "at most 4096" in bench("training", "--profile", "llm", "--accelerators", "5000", status=1)
    assert "--ranks" in bench("checkpoint", "--ranks", "0", status=1)
    done = server.run("bench", "training", "--profile", "llm", "--endpoint", server.endpoint)
    assert done.returncode == 1 and "AWS_ACCESS_KEY_ID" in done.stderr
