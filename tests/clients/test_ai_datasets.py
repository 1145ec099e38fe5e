"""Datasets: frozen, checked, walked and sampled; checkpoints by the command line; presets."""

from __future__ import annotations

import json
import threading
from collections import Counter

import pytest
from botocore.exceptions import ClientError

from tests.harness import Content
from tests.harness.granary import Signed, entries, make_tar


@pytest.fixture
def ask(server) -> Signed:
    return Signed(server.endpoint)


def cli(server, *arguments: str, status: int = 0) -> str:
    done = server.cli(*arguments)
    assert done.returncode == status, (arguments, done.stdout, done.stderr)
    return done.stdout + done.stderr


def refused(call) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]


def shards(s3, bucket: str, prefix: str, count: int, each: int) -> dict[str, dict[str, bytes]]:
    """Tar shards under a prefix; what each sample of the epoch must hold, by its key."""
    wanted = {}
    for shard in range(count):
        members = []
        for n in range(each):
            sample = {"jpg": Content(shard * each + n, 300 + n).data(), "cls": str(n).encode()}
            wanted[f"{shard:03}/{n:04}"] = sample
            members += [(f"{n:04}.{field}", data) for field, data in sample.items()]
        s3.put_object(Bucket=bucket, Key=f"{prefix}{shard:03}.tar", Body=make_tar(members))
    return wanted


# --- freezing ----------------------------------------------------------------------------------------------


def test_a_frozen_dataset_refuses_every_change(s3, server, bucket):
    for n in range(5):
        s3.put_object(Bucket=bucket, Key=f"d/v1/{n}", Body=Content(n, 100 * n).data())
    s3.put_object(Bucket=bucket, Key="d/v2/x", Body=b"x")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="d/v1/late")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="d/v1/late", UploadId=upload, PartNumber=1, Body=b"late")
    said = cli(server, "dataset", "freeze", f"{bucket}/d/v1")
    assert "5 objects, 1000 bytes, 5 samples" in said
    assert cli(server, "dataset", "freeze", f"{bucket}/d/v1/") == said, "freezing again says the same"
    manifest = next(key for key in keys(s3, bucket, ".granary/") if key.endswith(".jsonl"))
    for call in [
        lambda: s3.put_object(Bucket=bucket, Key="d/v1/0", Body=b"other"),
        lambda: s3.put_object(Bucket=bucket, Key="d/v1/new", Body=b"new"),
        lambda: s3.delete_object(Bucket=bucket, Key="d/v1/0"),
        lambda: s3.copy_object(Bucket=bucket, Key="d/v1/copy", CopySource=f"{bucket}/d/v2/x"),
        lambda: s3.create_multipart_upload(Bucket=bucket, Key="d/v1/m"),
        lambda: s3.complete_multipart_upload(
            Bucket=bucket, Key="d/v1/late", UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
        ),
        lambda: s3.put_object_tagging(Bucket=bucket, Key="d/v1/0", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}),
        lambda: s3.put_object(Bucket=bucket, Key=manifest, Body=b"forged"),
        lambda: s3.delete_object(Bucket=bucket, Key=manifest),
    ]:  # fmt: skip
        status, code, message = refused(call)
        assert (status, code) == (403, "AccessDenied") and "d/v1/ is frozen" in message
    failed = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "d/v1/0"}, {"Key": "d/v2/x"}]})
    assert [e["Key"] for e in failed["Errors"]] == ["d/v1/0"] and [d["Key"] for d in failed["Deleted"]] == ["d/v2/x"]
    assert s3.get_object(Bucket=bucket, Key="d/v1/3")["Body"].read() == Content(3, 300).data()
    s3.put_object(Bucket=bucket, Key="d/v1x", Body=b"beside")
    assert "5 objects, 1000 bytes: as signed" in cli(server, "dataset", "verify", f"{bucket}/d/v1", "--deep")
    assert "may change again" in cli(server, "dataset", "thaw", f"{bucket}/d/v1", "--yes")
    s3.put_object(Bucket=bucket, Key="d/v1/0", Body=b"other")


def keys(s3, bucket: str, prefix: str) -> list[str]:
    return [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]


def test_frozen_stays_frozen_over_kill_and_restart(bucket_name):
    from tests.harness import Server, boto3_client

    with Server() as own:
        own.start()
        s3 = boto3_client(own.endpoint)
        s3.create_bucket(Bucket=bucket_name)
        s3.put_object(Bucket=bucket_name, Key="d/a", Body=b"x")
        assert own.cli("dataset", "freeze", f"{bucket_name}/d").returncode == 0
        key = own.cli("dataset", "key").stdout
        own.kill()
        own.start()
        assert refused(lambda: s3.put_object(Bucket=bucket_name, Key="d/a", Body=b"y"))[:2] == (403, "AccessDenied")
        assert own.cli("dataset", "key").stdout == key
        assert own.cli("dataset", "verify", f"{bucket_name}/d").returncode == 0


def test_a_freeze_racing_writes(s3, server, bucket):
    """Whoever was answered 200 before the prefix closed is in the manifest; whoever comes later is refused."""
    s3.put_object(Bucket=bucket, Key="d/first", Body=b"x")
    stop, written, lost = threading.Event(), [], []

    def write(worker: int) -> None:
        for n in range(10_000):
            if stop.is_set():
                return
            key = f"d/{worker}-{n:05}"
            try:
                s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
                written.append(key)
            except ClientError as error:
                assert error.response["Error"]["Code"] == "AccessDenied"
                lost.append(key)
                return

    workers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    while len(written) < 40:
        pass
    cli(server, "dataset", "freeze", f"{bucket}/d")
    for worker in workers:
        worker.join(60)
    stop.set()
    assert len(lost) == 4, "every writer met the closed door"
    manifest = next(key for key in keys(s3, bucket, ".granary/") if key.endswith(".jsonl"))
    lines = s3.get_object(Bucket=bucket, Key=manifest)["Body"].read().decode().splitlines()
    named = [json.loads(line)["key"] for line in lines[1:-1]]
    assert named == sorted(["d/first", *written])
    assert not set(lost) & set(named)
    cli(server, "dataset", "verify", f"{bucket}/d")


def test_datasets_that_cannot_be_frozen_stay_open(s3, server, bucket):
    assert "nothing under" in cli(server, "dataset", "freeze", f"{bucket}/empty", status=1)
    s3.put_object(Bucket=bucket, Key="bad/a.tar", Body=b"no tar file")
    said = cli(server, "dataset", "freeze", f"{bucket}/bad", status=1)
    assert "bad/a.tar" in said and "no tar header" in said or "truncated" in said
    assert "not a frozen dataset" in cli(server, "dataset", "freeze", f"{bucket}/bad", "--from", f"{bucket}/x", status=1)
    s3.put_object(Bucket=bucket, Key="bad/a.tar", Body=make_tar({"a": b"x"}))
    s3.put_object(Bucket=bucket, Key="empty/x", Body=b"x")
    cli(server, "dataset", "freeze", f"{bucket}/bad")
    assert "lies within" in cli(server, "dataset", "freeze", f"{bucket}/bad/a", status=1)
    cli(server, "dataset", "freeze", "no-such-bucket-here/x", status=1)


def test_lineage_and_offline_checks(s3, server, bucket, tmp_path):
    for step, source in [("raw", []), ("processed", ["raw"]), ("run", ["processed", "raw"])]:
        for n in range(3):
            s3.put_object(Bucket=bucket, Key=f"{step}/{n}.bin", Body=Content(n, 70_000).data())
        cli(server, "dataset", "freeze", f"{bucket}/{step}", *[a for s in source for a in ("--from", f"{bucket}/{s}")])
    walk = json.loads(cli(server, "dataset", "lineage", f"{bucket}/run", "--json"))
    assert [s["prefix"] for s in walk["sources"]] == ["processed/", "raw/"]
    assert walk["sources"][0]["sources"][0]["prefix"] == "raw/" and walk["sources"][1]["state"] == "frozen"
    cli(server, "dataset", "thaw", f"{bucket}/raw", "--yes")
    s3.put_object(Bucket=bucket, Key="raw/0.bin", Body=b"changed")
    cli(server, "dataset", "freeze", f"{bucket}/raw")
    walk = json.loads(cli(server, "dataset", "lineage", f"{bucket}/run", "--json"))
    assert walk["sources"][1]["state"] == "changed"

    manifest = next(key for key in keys(s3, bucket, ".granary/datasets/run/") if key.endswith(".jsonl"))
    for name, key in [("m", manifest), ("s", manifest + ".sig")]:
        (tmp_path / name).write_bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    (tmp_path / "files").mkdir()
    for n in range(3):
        (tmp_path / "files" / f"{n}.bin").write_bytes(Content(n, 70_000).data())
    public = cli(server, "dataset", "key").strip()

    def offline(*more: str) -> tuple[int, str]:
        done = server.run("dataset", "verify", "--manifest", str(tmp_path / "m"), "--signature", str(tmp_path / "s"), *more)
        return done.returncode, done.stdout + done.stderr

    assert offline("--public-key", public, "--files", str(tmp_path / "files"))[0] == 0
    assert offline("--public-key", "00" * 32)[0] == 1
    (tmp_path / "files" / "1.bin").write_bytes(Content(2, 70_000).data())
    status, said = offline("--files", str(tmp_path / "files"))
    assert status == 1 and "run/1.bin" in said and "checksum" in said
    text = (tmp_path / "m").read_text()
    (tmp_path / "m").write_text(text.replace("run/1.bin", "run/9.bin"))
    status, said = offline()
    assert status == 1 and "SHA-256" in said


# --- epochs ------------------------------------------------------------------------------------------------


def epoch(ask, bucket, prefix, **query):
    names = {"epoch": "granary-epoch", "world_size": "world-size", "batch_size": "batch-size"}
    return ask("GET", f"/{bucket}/{prefix}", {names.get(k, k): str(v) for k, v in query.items()})


def sample_names(body: bytes) -> list[str]:
    names = []
    for info, _ in entries(body):
        key = info.name.rsplit(".", 1)[0]
        if not names or names[-1] != key:
            names.append(key)
    return names


def test_epochs_serve_every_sample_once(s3, server, ask, bucket):
    wanted = shards(s3, bucket, "d/v1/", 5, 37)
    s3.put_object(Bucket=bucket, Key="d/v1/extra.bin", Body=b"one object, one sample")
    assert epoch(ask, bucket, "d/v1/", epoch=0, batch=0).status == 400
    cli(server, "dataset", "freeze", f"{bucket}/d/v1")
    info = ask("GET", f"/{bucket}/d/v1/", {"granary-dataset": ""}).json()
    assert (info["samples"], info["objects"], info["finished"]) == (5 * 37 + 1, 6, True)
    orders = {}
    for number in (0, 1):
        seen, order = Counter(), []
        for rank in range(3):
            index, batches = 0, 1
            while index < batches:
                got = epoch(ask, bucket, "d/v1/", epoch=number, seed=7, rank=rank, world_size=3, batch=index, batch_size=16)
                assert got.status == 200, got.body
                batches = int(got.headers["x-granary-rank-batches"])
                names = sample_names(got.body)
                seen.update(names)
                order += names
                for entry, data in entries(got.body):
                    key, field = entry.name.rsplit(".", 1)
                    if key != "extra":
                        assert wanted[key][field] == data
                index += 1
            assert epoch(ask, bucket, "d/v1/", epoch=number, seed=7, rank=rank, world_size=3, batch=index, batch_size=16).code == "NoSuchBatch"
        assert set(seen) == set(wanted) | {"extra"} and set(seen.values()) == {1}
        orders[number] = order
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])
    again = epoch(ask, bucket, "d/v1/", epoch=1, seed=7, rank=2, world_size=3, batch=1, batch_size=16)
    assert again.body == epoch(ask, bucket, "d/v1/", epoch=1, seed=7, rank=2, world_size=3, batch=1, batch_size=16).body
    for wrong in [{"rank": 3, "world_size": 3}, {"batch_size": 0}, {"batch_size": 5000}, {"world_size": 0}, {"seed": -1}]:
        assert epoch(ask, bucket, "d/v1/", **({"epoch": 0, "batch": 0} | wrong)).status == 400, wrong
    assert epoch(ask, bucket, "d/v1/", epoch=0).status == 400
    assert ask("GET", f"/{bucket}/d/", {"granary-dataset": ""}).code == "NoSuchDataset"


# --- checkpoints and presets by the command line -------------------------------------------------------------


def test_checkpoint_latest_by_command_line(s3, server, bucket):
    said = cli(server, "checkpoint", "latest", f"{bucket}/run", status=1)
    assert "no complete checkpoint" in said
    for step in (9, 10):
        s3.put_object(Bucket=bucket, Key=f"run/step_{step}/.metadata", Body=b"x")
    assert cli(server, "checkpoint", "latest", f"{bucket}/run") == f"s3://{bucket}/run/step_10/\n"
    assert json.loads(cli(server, "checkpoint", "latest", f"s3://{bucket}/run/", "--json"))["step"] == 10


def test_presets_are_applied_once_and_again(s3, server, tmp_path):
    assert "artefacts" in server.run("preset", "list").stdout
    assert "there is no preset" in server.run("preset", "show", "nothing").stderr
    ours = tmp_path / "ours.toml"
    ours.write_text(server.run("preset", "show", "ai").stdout.replace("keep_last = 5", "keep_last = 2"))
    first = json.loads(cli(server, "preset", "apply", "ai", "--project", "team-a", "--json", "--lock-days", "0"))
    assert {b["bucket"]: b["outcome"] for b in first} == {
        f"team-a-{name}": "created" for name in ("raw", "processed", "artefacts", "cache")
    }  # fmt: skip
    assert "outlives the loss of any 1 of 6" in next(b for b in first if b["bucket"] == "team-a-cache")["durability"]
    again = json.loads(cli(server, "preset", "apply", "ai", "--project", "team-a", "--json", "--lock-days", "0"))
    assert {b["outcome"] for b in again} == {"unchanged"}
    changed = json.loads(cli(server, "preset", "apply", str(ours), "--project", "team-a", "--json", "--lock-days", "0"))
    assert [b["bucket"] for b in changed if b["outcome"] == "changed"] == ["team-a-artefacts"]
    s3.put_object(Bucket="team-a-raw", Key="k", Body=b"1")
    assert refused(lambda: s3.put_object(Bucket="team-a-raw", Key="k", Body=b"2"))[:2] == (412, "PreconditionFailed")
    assert s3.get_bucket_versioning(Bucket="team-a-raw")["Status"] == "Enabled"
    assert s3.get_object_lock_configuration(Bucket="team-a-raw")["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled"
    assert "-" in s3.put_object(Bucket="team-a-artefacts", Key="k", Body=b"1")["ETag"]
    locked = json.loads(cli(server, "preset", "apply", "ai", "--project", "team-b", "--json", "--lock", "compliance", "--lock-days", "3"))
    assert {b["outcome"] for b in locked} == {"created"}
    mode = s3.get_object_lock_configuration(Bucket="team-b-raw")["ObjectLockConfiguration"]["Rule"]["DefaultRetention"]
    assert (mode["Mode"], mode["Days"]) == ("COMPLIANCE", 3)
    (tmp_path / "bad.toml").write_text("name = 'x'\n[[bucket]]\nname = 'abc'\nsurprise = 1\n")
    assert "surprise" in cli(server, "preset", "apply", str(tmp_path / "bad.toml"), status=1)
