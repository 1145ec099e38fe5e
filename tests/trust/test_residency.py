"""Residency on one node: pins, the report from the drives, drives that contradict."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time

import botocore.exceptions
import pytest

from tests.access.people import allow, deny, granary, name, put_policy, refused, user
from tests.access.people import client as people_client
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
        # A pin is never widened.
        wider = server.cli("residency", "narrow", "--bucket", "pinned", "--regions", "eu-home-1,us-away-1")
        assert wider.returncode == 1 and "can only be narrowed" in wider.stderr


def as_user(server: Server, key: dict, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`granary ARGUMENTS` with a user's keys, and none of root's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRANARY_ROOT")}
    return subprocess.run(
        [str(server.binary), *arguments, "--admin", f"127.0.0.1:{server.admin_port}"], capture_output=True, text=True, timeout=60,
        env=environment | {"GRANARY_ACCESS_KEY": key["access_key"], "GRANARY_SECRET_KEY": key["secret_key"]},
    )  # fmt: skip


def token_of(asked: subprocess.CompletedProcess[str]) -> str:
    assert asked.returncode == 0, asked.stderr
    return asked.stdout.split("--token ")[1].strip()


def narrow(bucket: str) -> tuple[str, ...]:
    return "residency", "narrow", "--bucket", bucket, "--regions", "eu-home-1"


def confirm(bucket: str, token: str) -> tuple[str, ...]:
    return "residency", "confirm", "--bucket", bucket, "--token", token


def trail(server: Server, wanted, seconds: float = 30.0) -> list[dict]:
    """Events that are wanted, once there are some."""
    deadline = time.monotonic() + seconds
    while True:
        found = [e for e in map(json.loads, server.cli("audit", "export").stdout.splitlines()) if wanted(e)]
        if found:
            return found
        assert time.monotonic() < deadline


def test_narrowing_a_pin_takes_two_admins():
    with Server(env=HOME, preset=None) as server:
        server.start()
        s3 = client(server)
        for bucket in ("pinned", "loose"):
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-home-1"})
        ann, ann_key = user(server, "admin")
        bob, bob_key = user(server, "admin")
        _, plain_key = user(server, "readwrite")

        # Root asks: root cannot confirm, nor can who is no admin, nor whoever has the token for another bucket.
        token = token_of(server.cli(*narrow("pinned")))
        alone = server.cli(*confirm("pinned", token))
        assert alone.returncode == 1 and "another admin has to confirm" in alone.stderr
        nobody = as_user(server, plain_key, *confirm("pinned", token))
        assert nobody.returncode == 1 and "no statement allows it" in nobody.stderr
        assert as_user(server, ann_key, *confirm("loose", token)).returncode == 1
        assert as_user(server, ann_key, *confirm("pinned", "0" * 32)).returncode == 1
        forged = as_user(server, ann_key | {"secret_key": "x" * 40}, *confirm("pinned", token))
        assert forged.returncode == 1 and "signature" in forged.stderr
        # Ann does; a token is good once.
        done = as_user(server, ann_key, *confirm("pinned", token))
        assert done.returncode == 0 and "pinned to eu-home-1" in done.stdout, done.stderr
        assert as_user(server, ann_key, *confirm("pinned", token)).returncode == 1

        # A user asks: another user or root confirms, not the same one with another key.
        token = token_of(as_user(server, ann_key, *narrow("loose")))
        second = granary(server, "key", "create", "--user", ann)
        assert "another admin has to confirm" in as_user(server, second, *confirm("loose", token)).stderr
        assert as_user(server, bob_key, *confirm("loose", token)).returncode == 0
        token = token_of(as_user(server, ann_key, *narrow("loose")))
        assert server.cli(*confirm("loose", token)).returncode == 0

        # Users get nothing else of the admin port; service accounts and sessions nothing at all.
        for other in (("status",), ("residency", "report"), ("key", "status"), ("audit", "export")):
            done = as_user(server, ann_key, *other)
            assert done.returncode == 1, other
        service = granary(server, "key", "create", "--user", bob, "--service-account", "robot")
        assert "service accounts" in as_user(server, service, *narrow("loose")).stderr

        # Both words are in the trail, with who spoke them and what let them; so is who was refused.
        asked = trail(server, lambda e: e["eventName"] == "AdminResidencyNarrow" and e["userIdentity"].get("userName") == ann)
        assert "statement Everything of policy admin" in asked[0]["additionalEventData"]["decision"]
        words = trail(server, lambda e: e["eventName"] == "AdminResidencyConfirm" and e["userIdentity"].get("userName") == bob and "errorCode" not in e)
        assert words[0]["requestParameters"]["requestedBy"].endswith(f":user/{ann}")
        assert words[0]["requestParameters"]["narrowedTo"] == "eu-home-1"
        assert trail(server, lambda e: e["eventName"] == "AdminResidencyConfirm" and e["userIdentity"]["type"] == "Root" and e.get("errorCode") == "Forbidden")


def test_one_admin_alone_narrows_only_where_that_is_said_and_true():
    with Server(env=HOME | {"GRANARY_ADMIN_SINGLE_ADMIN": "true"}, preset=None) as server:
        server.start()
        client(server).create_bucket(Bucket="pinned", CreateBucketConfiguration={"LocationConstraint": "eu-home-1"})
        assert json.loads(server.cli("status", "--json").stdout)["single_admin"] is True
        assert server.cli(*confirm("pinned", token_of(server.cli(*narrow("pinned"))))).returncode == 0
        alone = trail(server, lambda e: e["eventName"] == "AdminResidencyConfirm" and "errorCode" not in e)
        assert alone[0]["requestParameters"]["confirmedAlone"] == "admin.single_admin"
        # As soon as a user could, it takes two.
        who, key = user(server, "admin")
        token = token_of(server.cli(*narrow("pinned")))
        refused_ = server.cli(*confirm("pinned", token))
        assert refused_.returncode == 1 and who in refused_.stderr
        own = token_of(as_user(server, key, *narrow("pinned")))
        assert "it takes both" in as_user(server, key, *confirm("pinned", own)).stderr
        assert server.cli(*confirm("pinned", own)).returncode == 0


def test_copies_into_a_laxer_bucket_take_a_right_and_make_an_event():
    with Server(env=HOME, preset=None) as server:
        server.start()
        s3 = client(server)
        s3.create_bucket(Bucket="pinned", CreateBucketConfiguration={"LocationConstraint": "eu-home-1"})
        s3.create_bucket(Bucket="alike", CreateBucketConfiguration={"LocationConstraint": "eu-home-1"})
        s3.create_bucket(Bucket="anywhere")
        s3.put_object(Bucket="pinned", Key="k", Body=b"x" * 300_000)
        source = {"Bucket": "pinned", "Key": "k"}
        _, plain = user(server, "readwrite")
        mine = people_client(server, plain)
        mine.copy_object(Bucket="alike", Key="k", CopySource=source)
        mine.copy_object(Bucket="pinned", Key="k2", CopySource=source)
        mine.copy_object(Bucket="pinned", Key="k3", CopySource={"Bucket": "alike", "Key": "k"})
        assert refused(lambda: mine.copy_object(Bucket="anywhere", Key="k", CopySource=source)) == (403, "AccessDenied")
        upload = mine.create_multipart_upload(Bucket="anywhere", Key="parts")["UploadId"]
        part = {"Bucket": "anywhere", "Key": "parts", "UploadId": upload, "PartNumber": 1, "CopySource": source}
        assert refused(lambda: mine.upload_part_copy(**part)) == (403, "AccessDenied")
        denied = trail(server, lambda e: e["eventName"] == "CopyObject" and e.get("errorCode") == "AccessDenied")[0]
        assert "granary:CopyToLaxerBucket" in denied["errorMessage"] or "no statement allows it" in denied["additionalEventData"]["decision"]

        # With the right, on the source; and an event of its own beside the copy's.
        policy = put_policy(server, name("loosen"), allow("granary:CopyToLaxerBucket", "arn:aws:s3:::pinned/*"))
        who, able = user(server, "readwrite", policy)
        theirs = people_client(server, able)
        theirs.copy_object(Bucket="anywhere", Key="copied", CopySource=source)
        copied = trail(server, lambda e: e["eventName"] == "CopyToLaxerBucket" and e["requestParameters"]["key"] == "copied")
        assert len(copied) == 1 and copied[0]["userIdentity"]["userName"] == who
        assert copied[0]["requestParameters"]["x-amz-copy-source"] == "pinned/k" and copied[0]["requestParameters"]["bucketName"] == "anywhere"
        assert policy in copied[0]["additionalEventData"]["decision"]
        own = trail(server, lambda e: e["eventName"] == "CopyObject" and e["requestParameters"]["key"] == "copied")
        assert {e["requestID"] for e in own} == {copied[0]["requestID"]}
        upload = theirs.create_multipart_upload(Bucket="anywhere", Key="parts")["UploadId"]
        theirs.upload_part_copy(**(part | {"UploadId": upload}))
        trail(server, lambda e: e["eventName"] == "CopyToLaxerBucket" and e["requestParameters"]["key"] == "parts")
        # No other copy made one.
        assert {e["requestParameters"]["key"] for e in trail(server, lambda e: e["eventName"] == "CopyToLaxerBucket")} == {"copied", "parts"}

        # The source's own policy may deny it to everybody, root too.
        document = {"Version": "2012-10-17", "Statement": [deny("granary:CopyToLaxerBucket", "arn:aws:s3:::pinned/*", Principal="*")]}
        s3.copy_object(Bucket="anywhere", Key="by-root", CopySource=source)
        s3.put_bucket_policy(Bucket="pinned", Policy=json.dumps(document))
        assert refused(lambda: s3.copy_object(Bucket="anywhere", Key="by-root-2", CopySource=source))[0] == 403
        assert refused(lambda: theirs.copy_object(Bucket="anywhere", Key="no", CopySource=source))[0] == 403
        s3.copy_object(Bucket="alike", Key="still", CopySource=source)


def test_presets_pin_what_they_make_and_change_no_pin(tmp_path):
    with Server(env=HOME, preset=None) as server:
        server.start()
        s3 = client(server)
        apply = lambda *more: server.cli("preset", "apply", *more)  # noqa: E731
        done = apply("ai", "--project", "a", "--region", "eu-home-1,eu-away-1")
        assert done.returncode == 0, done.stderr
        report = server.cli("residency", "report", "--bucket", "a-raw").stdout
        assert "bucket a-raw: pinned to eu-home-1, eu-away-1" in report
        assert apply("ai", "--project", "a", "--region", "eu-away-1,eu-home-1").returncode == 0, "the same regions"
        narrower = apply("ai", "--project", "a", "--region", "eu-home-1")
        assert narrower.returncode == 1 and "takes two admins" in narrower.stdout + narrower.stderr
        assert "eu-home-1, eu-away-1" in server.cli("residency", "report", "--bucket", "a-raw").stdout
        away = apply("ai", "--project", "b", "--region", "us-away-1")
        assert away.returncode == 1 and "this node is in eu-home-1" in away.stderr
        # Without --region a pin stays; the preset's own regions pin what it makes.
        assert apply("ai", "--project", "a").returncode == 0
        assert "eu-home-1, eu-away-1" in server.cli("residency", "report", "--bucket", "a-raw").stdout
        own = tmp_path / "own.toml"
        own.write_text('name = "own"\n[[bucket]]\nname = "records"\nregions = ["eu-home-1"]\n')
        assert apply(str(own)).returncode == 0
        assert "bucket records: pinned to eu-home-1;" in server.cli("residency", "report", "--bucket", "records").stdout
        # What was there unpinned is pinned by it.
        s3.create_bucket(Bucket="early")
        own.write_text('name = "own"\n[[bucket]]\nname = "early"\nregions = ["eu-home-1"]\n')
        assert apply(str(own)).returncode == 0
        assert "bucket early: pinned to eu-home-1;" in server.cli("residency", "report", "--bucket", "early").stdout


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
