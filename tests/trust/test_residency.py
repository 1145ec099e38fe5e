"""Residency on one node: pins, the report from the drives, drives that contradict."""

from __future__ import annotations

import json
import shutil
import time

import botocore.exceptions
import pytest

from tests.harness import Server, boto3_client
from tests.harness.server import ServerFailed, scratch_dir

HOME = {"GRANARY_AUDIT_FLUSH_INTERVAL_MS": "20", "GRANARY_NODE_REGION": "eu-home-1", "GRANARY_NODE_JURISDICTION": "Germany"}


def client(server: Server):
    return boto3_client(server.endpoint, region="eu-home-1")


def test_a_pinned_bucket_is_reported_from_the_drives_signed_and_only_narrowed():
    with Server(env=HOME, preset=None) as server:
        server.start()
        s3 = client(server)
        s3.create_bucket(Bucket="pinned", CreateBucketConfiguration={"LocationConstraint": "eu-home-1"})
        s3.create_bucket(Bucket="loose", CreateBucketConfiguration={"LocationConstraint": "eu-home-1"})
        s3.put_object(Bucket="pinned", Key="k", Body=b"x" * 1_000_000)
        said = server.cli("residency", "report", "--bucket", "pinned")
        assert said.returncode == 0 and "pinned to eu-home-1; shards found in: eu-home-1" in said.stdout, said.stdout
        assert "jurisdiction Germany" in said.stdout and "nothing contradicts" in said.stdout
        signed = server.cli("residency", "report", "--sign").stdout
        report = json.loads(json.loads(signed)["statement"])
        held = next(b for b in report["buckets"] if b["bucket"] == "pinned")["held"]
        assert sum(h["data_shards"] for h in held) == 4 and sum(h["parity_shards"] for h in held) == 2
        home = scratch_dir()
        key, file = home / "key.pem", home / "report.json"
        key.write_text(server.cli("audit", "public-key").stdout)
        file.write_text(signed)
        assert "VERIFIED" in server.run("residency", "verify", str(file), "--public-key", str(key)).stdout
        file.write_text(signed.replace("eu-home-1", "us-away-1", 1))
        forged = server.run("residency", "verify", str(file), "--public-key", str(key))
        assert forged.returncode == 1 and "NOT VERIFIED" in forged.stdout
        shutil.rmtree(home)
        # A pin is never widened, and narrowed only with a second word.
        wider = server.cli("residency", "narrow", "--bucket", "pinned", "--regions", "eu-home-1,us-away-1")
        assert wider.returncode == 1 and "can only be narrowed" in wider.stderr
        first = server.cli("residency", "narrow", "--bucket", "pinned", "--regions", "eu-home-1")
        token = first.stdout.split("--token ")[1].strip()
        assert server.cli("residency", "confirm", "--bucket", "loose", "--token", token).returncode == 1
        assert server.cli("residency", "confirm", "--bucket", "pinned", "--token", token).returncode == 0
        assert server.cli("residency", "confirm", "--bucket", "pinned", "--token", token).returncode == 1
        wanted, deadline = {"AdminResidencyNarrow", "AdminResidencyConfirm"}, time.monotonic() + 30
        while wanted - {json.loads(line)["eventName"] for line in server.cli("audit", "export").stdout.splitlines()}:
            assert time.monotonic() < deadline


def test_a_drive_that_contradicts_or_was_tampered_with_is_named_and_takes_part_in_nothing():
    with Server(env=HOME, preset=None) as server:
        server.start()
        client(server).create_bucket(Bucket="held")
        client(server).put_object(Bucket="held", Key="k", Body=b"x" * 1_000_000)
        server.stop()
        first, second = server.drive_dirs()[:2]
        sealed = first / "region.sealed"
        kept = sealed.read_bytes()
        # Another drive's declaration: it opens, but names the other drive.
        sealed.write_bytes((second / "region.sealed").read_bytes())
        server.start()
        status = json.loads(server.cli("status", "--json").stdout)
        assert any(str(first) in line and "tampered" in line for line in status["node"]["recovery"])
        assert client(server).get_object(Bucket="held", Key="k")["Body"].read() == b"x" * 1_000_000
        report = server.cli("residency", "report")
        assert report.returncode == 1 and str(first) in report.stdout
        server.stop()
        sealed.write_bytes(kept)
        # The whole node under another name: nothing is served.
        server.env["GRANARY_NODE_REGION"] = "us-away-1"
        with pytest.raises(ServerFailed, match="eu-home-1"):
            server.start()
        server.env["GRANARY_NODE_MOVED_REGION"] = "true"
        server.start()
        assert boto3_client(server.endpoint, region="us-away-1").head_object(Bucket="held", Key="k")


def test_a_bucket_that_is_pinned_elsewhere_is_answered_with_its_region():
    with Server(env=HOME, preset=None) as server:
        server.start()
        s3 = client(server)
        s3.create_bucket(Bucket="stays", CreateBucketConfiguration={"LocationConstraint": "eu-home-1"})
        s3.put_object(Bucket="stays", Key="k", Body=b"x")
        server.stop()
        server.env |= {"GRANARY_NODE_REGION": "us-away-1", "GRANARY_NODE_MOVED_REGION": "true"}
        server.start()
        s3 = boto3_client(server.endpoint, region="us-away-1")
        for ask in (
            lambda: s3.get_object(Bucket="stays", Key="k"),
            lambda: s3.put_object(Bucket="stays", Key="k", Body=b"y"),
            lambda: s3.list_objects_v2(Bucket="stays"),
        ):
            with pytest.raises(botocore.exceptions.ClientError) as refused:
                ask()
            answer = refused.value.response
            assert answer["ResponseMetadata"]["HTTPStatusCode"] == 301
            assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] == "eu-home-1"
