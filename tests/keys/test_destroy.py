"""`granary key`: rotation while the server serves, and destroying a bucket's keys, after which everything is tried."""

from __future__ import annotations

import base64
import json
import os
import shutil

import pytest
from botocore.exceptions import ClientError

from tests.harness import Server, boto3_client

MIB = 1 << 20
SIZES = [10, 9000, 100_000, 2 * MIB]


@pytest.fixture
def own():
    # `rebuild` takes the scheme from the settings.
    env = {"GRANARY_DRIVES_ERASURE": "2+1"}
    with Server(env=env, preset=None, drives=4, erasure="2+1") as server:
        yield server.start()


def done(result) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def fill(s3, bucket: str) -> dict[str, bytes]:
    s3.create_bucket(Bucket=bucket)
    written = {}
    for size in SIZES:
        for kind, how in [("s3", {}), ("kms", {"ServerSideEncryption": "aws:kms"})]:
            key, content = f"{kind}/{size}", os.urandom(size)
            s3.put_object(Bucket=bucket, Key=key, Body=content, **how)
            written[key] = content
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    content = os.urandom(5 * MIB + 70_000)
    parts = []
    for number, piece in [(1, content[: 5 * MIB]), (2, content[5 * MIB :])]:
        part = s3.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=number, Body=piece)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    written["parts"] = content
    return written


def check_all(s3, bucket: str, written: dict[str, bytes]) -> None:
    for key, content in written.items():
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == content, key


def check_none(s3, bucket: str, written: dict[str, bytes], statuses=(403,)) -> None:
    """No way of reading gives a byte."""
    tries = []
    for key in written:
        tries += [
            lambda key=key: s3.get_object(Bucket=bucket, Key=key),
            lambda key=key: s3.get_object(Bucket=bucket, Key=key, Range="bytes=0-4"),
            lambda key=key: s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/{key}"),
        ]
    tries.append(lambda: s3.get_object(Bucket=bucket, Key="parts", PartNumber=1))
    tries.append(lambda: s3.put_object(Bucket=bucket, Key="new", Body=b"x" * 100))
    for attempt in tries:
        with pytest.raises(ClientError) as caught:
            attempt()
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] in statuses, caught.value


def test_rotation_changes_keys_and_not_objects(own):
    s3 = boto3_client(own.endpoint)
    written = fill(s3, "kept")
    before = [(d / "keyring.json").read_text() for d in own.drive_dirs()]
    root_before = (own.data / "root.key").read_text()
    assert "generation 2" in done(own.cli("key", "rotate", "--bucket", "kept"))
    check_all(s3, "kept", written)
    s3.put_object(Bucket="kept", Key="after", Body=b"after")
    written["after"] = b"after"
    assert "older root keys are gone" in done(own.cli("key", "rotate"))
    root_after = (own.data / "root.key").read_text()
    assert root_after != root_before and root_after.count("\nkey ") == 1
    assert [(d / "keyring.json").read_text() for d in own.drive_dirs()] != before
    check_all(s3, "kept", written)
    own.kill()
    own.start()
    s3 = boto3_client(own.endpoint)
    check_all(s3, "kept", written)
    status = json.loads(done(own.cli("key", "status", "--json")))
    assert [(b["bucket"], b["generation"], b["keys"]) for b in status["buckets"] if b["bucket"] != "granary-audit"] == [("kept", 2, 2)]
    # The old root key opens nothing any more.
    own.stop()
    (own.data / "root.key").write_text(root_before)
    with pytest.raises(Exception, match="root key"):
        own.start()
    (own.data / "root.key").write_text(root_after)
    own.start()
    check_all(boto3_client(own.endpoint), "kept", written)


def test_a_destroyed_bucket_is_gone_whatever_is_tried(own, tmp_path):
    s3 = boto3_client(own.endpoint)
    lost, kept = fill(s3, "lost"), fill(s3, "kept")
    check_all(s3, "lost", lost)
    shelves = {d: (d / "bucket-keys.json").read_text() for d in own.drive_dirs()}
    locks = json.loads(next(iter(shelves.values())))["shelf"]["locks"]
    root = (own.data / "root.key").read_text()

    refused = own.cli("key", "destroy", "--bucket", "lost", "--yes-destroy", "kept")
    assert refused.returncode != 0
    check_all(s3, "lost", lost)
    assert "are destroyed" in done(own.cli("key", "destroy", "--bucket", "lost", "--yes-destroy", "lost"))

    # At once, over the API.
    check_none(s3, "lost", lost)
    check_all(s3, "kept", kept)
    assert "lost: DESTROYED" in done(own.cli("key", "status"))
    # After a clean restart (from the checkpoint), and after kill -9 (from the log).
    for end in (own.stop, own.kill):
        end()
        own.start()
        s3 = boto3_client(own.endpoint)
        check_none(s3, "lost", lost)
        check_all(s3, "kept", kept)
    own.stop()

    # No file of any drive holds the lock in the form in which it was on the shelf.
    gone = [text for text in locks.values() if text not in (own.drive_dirs()[0] / "bucket-keys.json").read_text()]
    assert len(gone) == len(locks) == 3, "all (the audit bucket's too) were wrapped anew or removed"
    for drive in own.drive_dirs():
        for path in (p for p in drive.rglob("*") if p.is_file()):
            content = path.read_bytes()
            for text in gone:
                assert text.encode() not in content and base64.b64decode(text) not in content, path

    # A drive that was away comes back with the old shelf: the newer one wins.
    first = own.drive_dirs()[0]
    (first / "bucket-keys.json").write_text(shelves[first])
    own.start()
    check_none(boto3_client(own.endpoint), "lost", lost)
    own.stop()
    assert '"destroyed": {}' not in (first / "bucket-keys.json").read_text()

    # Even with the old shelf on every drive: the root key that it was wrapped with is gone.
    now = {d: (d / "bucket-keys.json").read_text() for d in own.drive_dirs()}
    for drive, text in shelves.items():
        (drive / "bucket-keys.json").write_text(text)
    own.start()
    check_none(boto3_client(own.endpoint), "lost", lost, statuses=(403, 500, 503))
    own.stop()
    for drive, text in now.items():
        (drive / "bucket-keys.json").write_text(text)

    # The last resort brings names back, not bytes.
    for drive in own.drive_dirs():
        shutil.rmtree(drive / "meta")
    done(own.run("rebuild", "--data", str(own.data), "--complete-uploads"))
    own.start()
    s3 = boto3_client(own.endpoint)
    assert "s3/100000" in [o["Key"] for o in s3.list_objects_v2(Bucket="lost")["Contents"]]
    on_drives = {key: lost[key] for key in ("s3/100000", f"s3/{2 * MIB}", "parts")}
    check_none(s3, "lost", on_drives)
    check_all(s3, "kept", {key: kept[key] for key in on_drives})

    # Whoever keeps a copy of the old root key *and* of an old shelf has kept the bucket: said in the docs.
    assert root.count("\nkey ") == 1
