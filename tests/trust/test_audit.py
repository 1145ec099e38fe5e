"""The audit trail from outside: every request in it, durable with its change, sealed, verified, read by other tools."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config

from tests.access.people import allow, client, name, put_policy, refused, user
from tests.harness import ACCESS_KEY, SECRET_KEY, Server, boto3_client
from tests.harness.server import find_binary, scratch_dir

from .test_tls import issue

AUDIT = "granary-audit"
ROOT = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
QUICK = {"GRANARY_AUDIT_FLUSH_INTERVAL_MS": "20", "GRANARY_AUDIT_SEAL_INTERVAL_MS": "3600000"}


def events(server: Server, *more: str) -> list[dict]:
    said = server.cli("audit", "export", *more)
    assert said.returncode == 0, said.stderr
    return [json.loads(line) for line in said.stdout.splitlines()]


def wait_for(server: Server, check, *more: str, seconds: float = 30.0) -> list[dict]:
    """Events that `check` wants, once there are some: those of reads are written a moment after the answer."""
    deadline = time.monotonic() + seconds
    while True:
        found = [event for event in events(server, *more) if check(event)]
        if found:
            return found
        assert time.monotonic() < deadline, f"no such event among {[e['eventName'] for e in events(server, *more)]}"


@pytest.fixture(scope="module")
def server():
    with Server(env=QUICK) as running:
        yield running.start()


@pytest.fixture
def s3(server):
    return boto3_client(server.endpoint)


def test_every_kind_of_request_is_in_the_trail_with_cloudtrails_names(server, s3):
    s3.create_bucket(Bucket="kinds")
    s3.put_object(Bucket="kinds", Key="a/é", Body=b"x" * 5000)
    s3.get_object(Bucket="kinds", Key="a/é")["Body"].read()
    s3.list_objects_v2(Bucket="kinds", Prefix="a/")
    with pytest.raises(botocore.exceptions.ClientError):
        s3.get_object(Bucket="kinds", Key="missing")
    put = wait_for(server, lambda e: e["eventName"] == "PutObject", "--bucket", "kinds")[0]
    assert put["userIdentity"]["type"] == "Root" and put["userIdentity"]["accessKeyId"] == ACCESS_KEY
    assert put["requestParameters"]["key"] == "a/é" and put["sourceIPAddress"] == "127.0.0.1"
    assert put["additionalEventData"]["bytesTransferredIn"] == 5000
    assert put["additionalEventData"]["SignatureVersion"] == "SigV4" and "root keys" in put["additionalEventData"]["decision"]
    assert put["resources"][0] == {"type": "AWS::S3::Object", "ARN": "arn:aws:s3:::kinds/a/é"}
    assert put["resources"][1]["accountId"] == put["userIdentity"]["accountId"]
    assert put["eventSource"] == "s3.amazonaws.com" and put["awsRegion"] == "us-east-1" and put["readOnly"] is False
    assert "Boto3" in put["userAgent"] and len(put["requestID"]) == 16 and len(put["eventID"]) == 36
    got = wait_for(server, lambda e: e["eventName"] == "GetObject" and "errorCode" not in e, "--bucket", "kinds")[0]
    assert got["additionalEventData"]["bytesTransferredOut"] == 5000 and got["readOnly"] is True
    missing = wait_for(server, lambda e: e.get("errorCode") == "NoSuchKey", "--bucket", "kinds")[0]
    assert missing["requestParameters"]["key"] == "missing"
    assert wait_for(server, lambda e: e["eventName"] == "ListObjectsV2", "--bucket", "kinds")[0]["requestParameters"]["prefix"] == "a/"
    assert wait_for(server, lambda e: e["eventName"] == "CreateBucket", "--bucket", "kinds")
    one_each = [e["requestID"] for e in events(server, "--bucket", "kinds") if e["eventName"] == "PutObject"]
    assert len(one_each) == len(set(one_each)) == 1


def test_refusals_name_who_and_why(server, s3):
    s3.create_bucket(Bucket="refusals")
    wrong = boto3.session.Session().client(
        "s3", endpoint_url=server.endpoint, aws_access_key_id=ACCESS_KEY, aws_secret_access_key="not-the-secret-at-all",
        region_name="us-east-1", config=Config(retries={"total_max_attempts": 1}),
    )  # fmt: skip
    with pytest.raises(botocore.exceptions.ClientError):
        wrong.put_object(Bucket="refusals", Key="k", Body=b"x")
    bad = wait_for(server, lambda e: e.get("errorCode") == "SignatureDoesNotMatch", "--bucket", "refusals")[0]
    assert bad["userIdentity"]["type"] == "Unknown" and bad["userIdentity"]["accessKeyId"] == ACCESS_KEY
    assert bad["additionalEventData"]["httpStatus"] == 403
    s3.put_object(Bucket="refusals", Key="once", Body=b"1")
    with pytest.raises(botocore.exceptions.ClientError):
        s3.put_object(Bucket="refusals", Key="once", Body=b"2", IfNoneMatch="*")
    refused = wait_for(server, lambda e: e.get("errorCode") == "PreconditionFailed", "--bucket", "refusals")
    assert len(refused) == 1, "refused in apply or before: one event, not two"
    assert wait_for(server, lambda e: True, "--bucket", "refusals", "--outcome", "refused")
    assert not [e for e in events(server, "--bucket", "refusals", "--outcome", "allowed") if "errorCode" in e]


def test_one_event_per_key_of_a_multi_delete(server, s3):
    s3.create_bucket(Bucket="many")
    for n in range(5):
        s3.put_object(Bucket="many", Key=f"k{n}", Body=b"x")
    s3.delete_objects(Bucket="many", Delete={"Objects": [{"Key": f"k{n}"} for n in range(5)]})
    found = wait_for(server, lambda e: e["eventName"] == "DeleteObjects", "--bucket", "many")
    assert len(found) == 1
    each = [e for e in events(server, "--bucket", "many") if e["eventName"] == "DeleteObject"]
    assert sorted(e["requestParameters"]["key"] for e in each) == [f"k{n}" for n in range(5)]
    assert {e["requestID"] for e in each} == {found[0]["requestID"]}


def test_the_audit_bucket_is_read_only_for_root(server, s3):
    s3.create_bucket(Bucket="other")
    server.cli("audit", "seal")
    key = s3.list_objects_v2(Bucket=AUDIT)["Contents"][0]["Key"]
    document = {"Rules": [{"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]}
    attempts = [
        lambda: s3.put_object(Bucket=AUDIT, Key="mine", Body=b"x"),
        lambda: s3.put_object(Bucket=AUDIT, Key=key, Body=b"x"),
        lambda: s3.delete_object(Bucket=AUDIT, Key=key),
        lambda: s3.delete_bucket(Bucket=AUDIT),
        lambda: s3.put_bucket_versioning(Bucket=AUDIT, VersioningConfiguration={"Status": "Enabled"}),
        lambda: s3.put_bucket_tagging(Bucket=AUDIT, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}),
        lambda: s3.put_bucket_lifecycle_configuration(Bucket=AUDIT, LifecycleConfiguration=document),
        lambda: s3.put_object_tagging(Bucket=AUDIT, Key=key, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}),
        lambda: s3.create_multipart_upload(Bucket=AUDIT, Key="mine"),
        lambda: s3.copy_object(Bucket=AUDIT, Key="mine", CopySource={"Bucket": AUDIT, "Key": key}),
    ]
    for attempt in attempts:
        with pytest.raises(botocore.exceptions.ClientError) as refused:
            attempt()
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 501), refused.value
    deleted = s3.delete_objects(Bucket=AUDIT, Delete={"Objects": [{"Key": key}]})
    assert deleted["Errors"][0]["Code"] == "AccessDenied"
    assert AUDIT not in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    assert s3.head_object(Bucket=AUDIT, Key=key)["ContentLength"] > 0
    s3.copy_object(Bucket="other", Key="kept", CopySource={"Bucket": AUDIT, "Key": key})


def fetch(s3, folder: Path) -> list[Path]:
    found = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=AUDIT):
        for entry in page.get("Contents", []):
            path = folder / entry["Key"].replace("/", "_")
            path.write_bytes(s3.get_object(Bucket=AUDIT, Key=entry["Key"])["Body"].read())
            found.append(path)
    return found


def granary(*line: str) -> subprocess.CompletedProcess[str]:
    """On a machine that has nothing of the node's: an empty environment, an empty folder."""
    return subprocess.run([str(find_binary()), *line], capture_output=True, text=True, timeout=120, env={}, cwd="/")


def test_the_audit_bucket_is_read_by_auditors_and_admins_only(server, s3):
    s3.create_bucket(Bucket="plainly")
    s3.put_object(Bucket="plainly", Key="k", Body=b"x")
    server.cli("audit", "seal")
    key = s3.list_objects_v2(Bucket=AUDIT)["Contents"][0]["Key"]
    reads = [
        lambda mine: mine.list_objects_v2(Bucket=AUDIT),
        lambda mine: mine.get_object(Bucket=AUDIT, Key=key),
        lambda mine: mine.head_object(Bucket=AUDIT, Key=key),
        lambda mine: mine.head_bucket(Bucket=AUDIT),
        lambda mine: mine.get_bucket_location(Bucket=AUDIT),
        lambda mine: mine.copy_object(Bucket="plainly", Key="stolen", CopySource={"Bucket": AUDIT, "Key": key}),
    ]
    wide = put_policy(server, name("wide"), allow("s3:*"))
    meant = put_policy(server, name("meant"), allow("s3:Get*", f"arn:aws:s3:::{AUDIT}/*"))
    for policies in (["readonly"], ["readwrite"], [wide], []):
        mine = client(server, user(server, *policies)[1])
        for read in reads:
            assert refused(lambda: read(mine))[0] == 403, policies  # noqa: B023
        if policies:
            assert mine.get_object(Bucket="plainly", Key="k")["Body"].read() == b"x"
    for policies, allowed in ((["auditor"], reads[:5]), (["admin"], reads), (["readonly", "auditor"], reads[:5]), ([meant], reads[1:3])):
        mine = client(server, user(server, *policies)[1])
        for read in allowed:
            read(mine)
        assert refused(lambda: mine.put_object(Bucket=AUDIT, Key="mine", Body=b"x"))[0] == 403  # noqa: B023
    auditor = client(server, user(server, "auditor")[1])
    assert refused(lambda: auditor.get_object(Bucket="plainly", Key="k"))[0] == 403
    # The refusal is in the trail, with its reason.
    _, reader = user(server, "readonly")
    assert refused(lambda: client(server, reader).get_object(Bucket=AUDIT, Key=key)) == (403, "AccessDenied")
    mine = lambda e: e["userIdentity"].get("accessKeyId") == reader["access_key"] and e["eventName"] == "GetObject"  # noqa: E731
    denied = wait_for(server, mine, "--bucket", AUDIT)[0]
    assert "policies that name it" in denied["additionalEventData"]["decision"] and denied["errorCode"] == "AccessDenied"


def test_iam_and_sts_calls_have_their_own_names_and_no_secret(server, s3):
    iam, sts = client(server, ROOT, "iam"), client(server, ROOT, "sts")
    who, role = name("trail"), name("role")
    iam.create_user(UserName=who, Path="/team/", Tags=[{"Key": "k", "Value": "HUSH-tag"}])
    made = iam.create_access_key(UserName=who)["AccessKey"]
    iam.put_user_policy(UserName=who, PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": allow("s3:Get*")}))
    theirs = {"access_key": made["AccessKeyId"], "secret_key": made["SecretAccessKey"]}
    arn = iam.get_user(UserName=who)["User"]["Arn"]
    trust = {"Version": "2012-10-17", "Statement": [{"Sid": "Them", "Effect": "Allow", "Principal": {"AWS": arn}, "Action": "sts:AssumeRole"}]}
    role_arn = iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    session = client(server, theirs, "sts").assume_role(RoleArn=role_arn, RoleSessionName="nightly", ExternalId="HUSH-external")["Credentials"]
    sts.get_caller_identity()
    assert refused(lambda: client(server, theirs, "iam").delete_user(UserName=who))[0] == 403
    assert refused(lambda: client(server, theirs | {"secret_key": "x" * 40}, "iam").list_users())[0] == 403
    with pytest.raises(botocore.exceptions.ClientError):
        iam.create_user(UserName=who)

    def one(event: str, check=lambda e: True) -> dict:
        found = wait_for(server, lambda e: e["eventName"] == event and check(e))
        assert len(found) == 1, f"{event}: one event, not {len(found)}"
        return found[0]

    about = lambda e: e["requestParameters"].get("userName") == who  # noqa: E731
    created = one("CreateUser", lambda e: about(e) and "errorCode" not in e)
    assert created["eventSource"] == "iam.amazonaws.com" and created["requestParameters"]["path"] == "/team/"
    assert created["userIdentity"]["type"] == "Root" and created["readOnly"] is False and created["managementEvent"] is True
    assert "root keys" in created["additionalEventData"]["decision"] and "bytesTransferredIn" not in created["additionalEventData"]
    again = one("CreateUser", lambda e: about(e) and "errorCode" in e)
    assert again["errorCode"] == "EntityAlreadyExists" and again["additionalEventData"]["httpStatus"] == 409
    key = one("CreateAccessKey", about)
    assert key["requestParameters"]["accessKeyId"] == made["AccessKeyId"]
    put = one("PutUserPolicy", about)
    assert put["requestParameters"]["policyName"] == "p" and "s3:Get*" in put["requestParameters"]["policyDocument"]
    assumed = one("AssumeRole")
    assert assumed["eventSource"] == "sts.amazonaws.com" and assumed["userIdentity"]["arn"] == arn
    assert assumed["requestParameters"]["roleArn"] == role_arn and assumed["requestParameters"]["roleSessionName"] == "nightly"
    # Whose session it is can be followed from its key.
    assert assumed["requestParameters"]["accessKeyId"] == session["AccessKeyId"]
    assert assumed["additionalEventData"]["decision"] == f"allowed by statement Them of the trust policy of role {role}"
    assert assumed["resources"] == [{"type": "AWS::IAM::Role", "ARN": role_arn}]
    assert one("GetCallerIdentity")["readOnly"] is True
    denied = one("DeleteUser", about)
    assert denied["errorCode"] == "AccessDenied" and "no statement allows it" in denied["additionalEventData"]["decision"]
    forged = one("ListUsers", lambda e: e.get("errorCode") == "SignatureDoesNotMatch")
    assert forged["userIdentity"]["type"] == "Unknown" and forged["eventSource"] == "iam.amazonaws.com"
    everything = events(server)
    assert not [e for e in everything if e["eventName"] in ("Query", "Other", "REST.POST.SERVICE")]
    shown = json.dumps(everything)
    for secret in (made["SecretAccessKey"], session["SecretAccessKey"], session["SessionToken"], "HUSH-tag", "HUSH-external", SECRET_KEY):
        assert secret not in shown, secret
    # The same in the sealed trail.
    server.cli("audit", "seal")
    import pyarrow.parquet as pq

    folder = scratch_dir()
    rows = [row for file in fetch(s3, folder) if file.suffix == ".parquet" for row in pq.read_table(file).to_pylist()]
    shutil.rmtree(folder)
    assert {"CreateUser", "AssumeRole"} <= {row["eventName"] for row in rows}
    assert {row["eventSource"] for row in rows if row["eventName"] == "AssumeRole"} == {"sts.amazonaws.com"}


def test_sealed_segments_verify_offline_and_tampering_is_named(server, s3):
    folder = scratch_dir()
    try:
        s3.create_bucket(Bucket="sealed")
        for n in range(7):
            s3.put_object(Bucket="sealed", Key=f"k{n}", Body=b"x")
        assert "segments sealed" in server.cli("audit", "seal").stdout
        s3.put_object(Bucket="sealed", Key="later", Body=b"x")
        server.cli("audit", "seal")
        key = folder / "key.pem"
        key.write_text(server.cli("audit", "public-key").stdout)
        anchors = folder / "anchors"
        anchors.write_text(server.cli("audit", "anchors").stdout)
        trail = folder / "trail"
        trail.mkdir()
        files = sorted(fetch(s3, trail))
        whole = ["audit", "verify", "--public-key", str(key), "--anchors", str(anchors), str(trail)]
        said = granary(*whole)
        assert said.returncode == 0 and said.stdout.startswith("VERIFIED"), said.stdout + said.stderr

        import pyarrow.parquet as pq

        rows = [row for file in files if file.suffix == ".parquet" for row in pq.read_table(file).to_pylist()]
        assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
        victim = next(row for row in rows if row["bucketName"] == "sealed" and row["key"] == "k3")
        # A well-formed file that says something else: the event is named.
        file = next(
            f for f in files
            if f.suffix == ".parquet" and victim["sequence"] in pq.read_table(f)["sequence"].to_pylist()
        )  # fmt: skip
        kept = file.read_bytes()
        table = pq.read_table(file)
        record = [bytes(r) for r in table["record"].to_pylist()]
        at = next(i for i, r in enumerate(table["sequence"].to_pylist()) if r == victim["sequence"])
        import pyarrow as pa

        changed = record[:]
        changed[at] = record[at].replace(b"k3", b"k9")
        position = table.schema.get_field_index("record")
        field = table.schema.field("record")
        pq.write_table(table.set_column(position, field, pa.array(changed, field.type)), file)
        said = granary(*whole)
        assert said.returncode == 1 and f"event {victim['sequence']}: changed" in said.stdout, said.stdout
        pq.write_table(pa.concat_tables([table.slice(0, at), table.slice(at + 1)]), file)
        said = granary(*whole)
        assert said.returncode == 1 and f"event {victim['sequence']}: removed" in said.stdout, said.stdout
        for _ in range(20):
            bytes_ = bytearray(kept)
            bytes_[random.randrange(len(bytes_))] ^= 1 << random.randrange(8)
            file.write_bytes(bytes_)
            assert granary(*whole).returncode != 0
        file.write_bytes(kept)
        assert granary(*whole).returncode == 0
        # The end cut off: only the anchor tells.
        last = [f for f in files if f.name.split("_")[-1].split(".")[0] == files[-1].name.split("_")[-1].split(".")[0]]
        for f in last:
            f.rename(folder / f.name)
        assert "an anchor stands for events" in granary(*whole).stdout
        assert granary("audit", "verify", "--public-key", str(key), str(trail)).returncode == 0
        for f in last:
            (folder / f.name).rename(f)
        # Another node's key.
        with Server(env=QUICK) as stranger:
            stranger.start()
            key.write_text(stranger.cli("audit", "public-key").stdout)
        said = granary(*whole)
        assert said.returncode == 1 and "another key" in said.stdout
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sealed(server):
    """The trail as files over S3: pyarrow's filesystem, and the segments in it."""
    from pyarrow import fs

    server.cli("audit", "seal")
    access = fs.S3FileSystem(
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, endpoint_override=f"127.0.0.1:{server.port}", scheme="http",
        region="us-east-1",
    )  # fmt: skip
    files = [f.path for f in access.get_file_info(fs.FileSelector(AUDIT, recursive=True)) if f.path.endswith(".parquet")]
    return access, files


def test_pandas_reads_the_trail_over_s3(sealed):
    import pandas

    access, files = sealed
    frame = pandas.concat(pandas.read_parquet(file, filesystem=access) for file in files)
    starts = frame[frame.eventName == "StartNode"]
    assert len(starts) > 0 and str(frame.eventTime.dtype) == "datetime64[us, UTC]"


def test_duckdb_reads_the_trail_over_s3(sealed):
    """By DuckDB's own Parquet reader. Its `httpfs` is downloaded at run time from its makers, so fsspec carries the bytes here."""
    import duckdb
    from fsspec.implementations.arrow import ArrowFSWrapper

    class OverS3(ArrowFSWrapper):
        protocol = "trail"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:  # that of the class above takes the bucket for a host
            return path.removeprefix("trail://")

    access, files = sealed
    with duckdb.connect() as database:
        database.register_filesystem(OverS3(access))
        names = [f"trail://{file}" for file in files]
        counts = dict(database.execute("select eventName, count(*) from read_parquet(?) group by all", [names]).fetchall())
        assert counts["StartNode"] > 0
        first, last = database.execute("select min(sequence), max(sequence) from read_parquet(?)", [names]).fetchone()
        assert (first, last - first + 1) == (1, sum(counts.values())), "a chain without a gap"


def test_pyarrow_reads_the_trail_over_s3(sealed):
    import pyarrow.dataset as ds

    access, files = sealed
    table = ds.dataset(files, filesystem=access, format="parquet").to_table(columns=["sequence", "eventName", "eventTime"])
    assert table.num_rows > 0 and "StartNode" in table["eventName"].to_pylist()
    assert str(table.schema.field("eventTime").type) == "timestamp[us, tz=UTC]"


def test_no_secret_gets_into_the_trail(server, s3):
    import base64
    import hashlib

    s3.create_bucket(Bucket="secrets")
    sse_key = os.urandom(32)
    marks = ["HUSH-user-metadata", "HUSH-tag-value", "HUSH-payload"]
    s3.put_object(Bucket="secrets", Key="k", Body=marks[2].encode(), Metadata={"note": marks[0]}, Tagging=f"t={marks[1]}")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "secrets", "Key": "k"})
    import urllib.request

    urllib.request.urlopen(url).read()
    signature = url.split("Signature=")[1].split("&")[0]
    try:
        s3.put_object(Bucket="secrets", Key="c", Body=b"x", SSECustomerAlgorithm="AES256", SSECustomerKey=sse_key)
    except botocore.exceptions.ClientError:
        pass  # Refused over plain HTTP, or not there yet: its key must not show either way.
    wait_for(server, lambda e: e["eventName"] in ("GetObject",), "--bucket", "secrets")
    server.cli("audit", "seal")
    shown = json.dumps(events(server))
    folder = scratch_dir()
    raw = b"".join(path.read_bytes() for path in fetch(s3, folder))
    shutil.rmtree(folder)
    import pyarrow.parquet  # noqa: F401 - the columns are compressed: what counts is what they say

    forbidden = [SECRET_KEY, signature, base64.b64encode(sse_key).decode(), sse_key.hex(), *marks]
    forbidden.append(base64.b64encode(hashlib.md5(sse_key).digest()).decode())
    for secret in forbidden:
        assert secret not in shown and secret.encode() not in raw and secret not in server.log(), secret


def test_a_crash_is_a_gap_and_a_stop_is_none(server):
    with Server(env=QUICK) as own:
        own.start()
        names = lambda: [e["eventName"] for e in events(own)]  # noqa: E731
        assert "AuditGap" not in names()
        own.restart()
        assert "AuditGap" not in names() and names().count("StopNode") == 1 and names().count("StartNode") == 2
        own.kill()
        own.start()
        gap = [e for e in events(own) if e["eventName"] == "AuditGap"]
        assert len(gap) == 1 and gap[0]["requestParameters"]["lost"] == "unknown"
        sequence = [e["additionalEventData"]["sequence"] for e in events(own)]
        assert sequence == list(range(1, len(sequence) + 1))


def test_no_acknowledged_change_without_its_event_through_kills():
    rng = random.Random(7)
    acknowledged: dict[str, str] = {}
    with Server(env={**QUICK, "GRANARY_AUDIT_SEAL_INTERVAL_MS": "300"}) as own:
        own.start()
        boto3_client(own.endpoint).create_bucket(Bucket="kills")
        for round_ in range(4):
            stop = threading.Event()

            def work(worker: int, round_: int = round_) -> None:
                s3 = boto3_client(own.endpoint, retries=0)
                n = 0
                while not stop.is_set():
                    key = f"{round_}-{worker}-{n}"
                    n += 1
                    try:
                        size = rng.choice([10, 30_000])
                        answer = s3.put_object(Bucket="kills", Key=key, Body=os.urandom(size))
                        acknowledged[key] = answer["ResponseMetadata"]["RequestId"]
                    except Exception:  # noqa: BLE001 - the server is being killed
                        if stop.is_set():
                            return

            workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
            for worker in workers:
                worker.start()
            time.sleep(rng.uniform(0.5, 2.0))
            stop.set()
            own.kill()
            for worker in workers:
                worker.join()
            own.start()
        seen = {e["requestParameters"].get("key"): e["requestID"] for e in events(own, "--bucket", "kills", "--event", "PutObject")}
        assert len(acknowledged) > 20
        missing = {key for key, request in acknowledged.items() if seen.get(key) != request}
        assert not missing, f"{len(missing)} of {len(acknowledged)} acknowledged changes have no event"
        # And the chain over all of it holds.
        own.cli("audit", "seal")
        folder = scratch_dir()
        fetch(boto3_client(own.endpoint), folder)
        said = granary("audit", "verify", str(folder))
        shutil.rmtree(folder)
        assert said.returncode == 0, said.stdout


def test_retention_only_grows():
    with Server(env={**QUICK, "GRANARY_AUDIT_KEEP_DAYS": "365"}) as own:
        own.start()
        own.stop()
        own.env["GRANARY_AUDIT_KEEP_DAYS"] = "200"
        with pytest.raises(Exception, match="can only be raised"):
            own.start()
        own.env["GRANARY_AUDIT_KEEP_DAYS"] = "400"
        own.start()
        assert "kept 400 days" in own.cli("status").stdout


def test_events_are_streamed_to_syslog_and_a_webhook_at_least_once():
    received: list[dict] = []
    failing = threading.Event()
    failing.set()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802 - the name is the library's
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if failing.is_set():
                failing.clear()
                self.send_response(500)
            else:
                received.extend(json.loads(body))
                self.send_response(204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    hook = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    syslog = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    syslog.bind(("127.0.0.1", 0))
    syslog.settimeout(30)
    env = {
        **QUICK,
        "GRANARY_AUDIT_WEBHOOK": f"http://127.0.0.1:{hook.server_port}/hook",
        "GRANARY_AUDIT_SYSLOG": f"udp://127.0.0.1:{syslog.getsockname()[1]}",
    }
    with Server(env=env) as own:
        own.start()
        boto3_client(own.endpoint).put_object(Bucket="processed", Key="streamed", Body=b"x")
        deadline = time.monotonic() + 30
        while not any((e.get("requestParameters") or {}).get("key") == "streamed" for e in received):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        sequence = [e["additionalEventData"]["sequence"] for e in received]
        assert sorted(set(sequence)) == list(range(1, max(sequence) + 1)), "nothing is left out"
        while True:
            message = syslog.recv(65_536).decode()
            assert message.startswith("<1") and ">1 2" in message
            if '"key":"streamed"' in message:
                break
    hook.shutdown()


class Collector:
    """A syslog collector over TCP: octet counting (RFC 6587), several connections one after the other."""

    def __init__(self, resets: int) -> None:
        self.messages: list[str] = []
        self.wrong: list[str] = []
        self.resets = resets
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                if self.resets:
                    # Gone with what was sent unread: the batch is lost here, and must come again.
                    self.resets -= 1
                    connection.recv(1)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    continue
                data = b""
                while chunk := connection.recv(65_536):
                    data += chunk
                while data:
                    length, _, rest = data.partition(b" ")
                    if not length.isdigit() or len(rest) < int(length):
                        self.wrong.append(data[:200].decode(errors="replace"))
                        break
                    self.messages.append(rest[: int(length)].decode())
                    data = rest[int(length) :]


def https_hook(folder: Path, received: list[dict]) -> HTTPServer:
    """A webhook over https, TLS 1.3, with a certificate for 127.0.0.1 by an authority of its own."""

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802 - the name is the library's
            received.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    issue(folder, "ca")
    issue(folder, "hook", "ca")
    hook = HTTPServer(("127.0.0.1", 0), Hook)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "hook.crt", folder / "hook.key")
    hook.socket = context.wrap_socket(hook.socket, server_side=True)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    return hook


def sequences(events_: list[dict]) -> list[int]:
    return [e["additionalEventData"]["sequence"] for e in events_]


def test_events_are_streamed_over_tcp_and_https_and_nothing_is_left_out(tmp_path):
    received: list[dict] = []
    hook = https_hook(tmp_path, received)
    collector = Collector(resets=2)
    env = {
        **QUICK,
        "GRANARY_AUDIT_SYSLOG": f"tcp://127.0.0.1:{collector.port}",
        "GRANARY_AUDIT_WEBHOOK": f"https://127.0.0.1:{hook.server_port}/hook?tenant=1",
        "GRANARY_AUDIT_WEBHOOK_CA_FILE": str(tmp_path / "ca.crt"),
    }
    with Server(env=env) as own:
        own.start()
        s3 = boto3_client(own.endpoint)
        for n in range(30):
            s3.put_object(Bucket="processed", Key=f"streamed/é {n}", Body=b"x")
        with pytest.raises(botocore.exceptions.ClientError):
            s3.get_object(Bucket="processed", Key="missing")
        # An event of a read that was not written yet goes with a kill.
        wait_for(own, lambda e: (e.get("requestParameters") or {}).get("key") == "missing")
        # Killed in between: what the receivers have is what they get again, or what comes next, and never less.
        own.kill()
        own.start()
        s3.put_object(Bucket="processed", Key="last", Body=b"x")
        last = wait_for(own, lambda e: (e.get("requestParameters") or {}).get("key") == "last")[0]
        goal = last["additionalEventData"]["sequence"]
        heard = lambda: [json.loads(m[m.index("{") :]) for m in list(collector.messages)]  # noqa: E731
        deadline = time.monotonic() + 60
        while goal not in sequences(heard()) or goal not in sequences(received):
            assert time.monotonic() < deadline, own.log_tail()
            time.sleep(0.1)
        assert not collector.wrong and collector.resets == 0
        for told in (heard(), received):
            assert set(range(1, goal + 1)) <= set(sequences(told)), "nothing is left out"
            keys = {(e.get("requestParameters") or {}).get("key") for e in told}
            assert {f"streamed/é {n}" for n in range(30)} <= keys
        by_sequence = {e["additionalEventData"]["sequence"]: e for e in events(own)}
        assert all(by_sequence[e["additionalEventData"]["sequence"]] == e for e in received), "as the trail has them"
        for message in collector.messages:
            priority, stamp, host, app, _, event, dash, _ = message.split(" ", 7)
            assert priority in ("<110>1", "<108>1") and app == "granary" and dash == "-" and event and host
            assert stamp.endswith("Z") and len(stamp) == 27
        failed = next(m for m in collector.messages if '"missing"' in m)
        assert failed.startswith("<108>1"), "what was not done is a warning"
    hook.shutdown()


def test_a_webhook_that_nobody_vouches_for_gets_nothing(tmp_path):
    received: list[dict] = []
    (tmp_path / "other").mkdir()
    issue(tmp_path / "other", "ca")
    hook = https_hook(tmp_path, received)
    env = {
        **QUICK,
        "GRANARY_AUDIT_WEBHOOK": f"https://127.0.0.1:{hook.server_port}/",
        "GRANARY_AUDIT_WEBHOOK_CA_FILE": str(tmp_path / "other" / "ca.crt"),
    }
    with Server(env=env) as own:
        own.start()
        boto3_client(own.endpoint).put_object(Bucket="processed", Key="k", Body=b"x")
        deadline = time.monotonic() + 30
        while "audit events wait for their receiver" not in own.log():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert not received
        # With the right one it gets everything, from the beginning.
        own.stop()
        own.env["GRANARY_AUDIT_WEBHOOK_CA_FILE"] = str(tmp_path / "ca.crt")
        own.start()
        while not any((e.get("requestParameters") or {}).get("key") == "k" for e in received):
            assert time.monotonic() < deadline + 30, own.log_tail()
            time.sleep(0.1)
        assert sequences(received)[0] == 1
    hook.shutdown()


def test_an_unsynchronised_clock_stops_the_start_where_that_is_asked_for(server):
    state = json.loads(server.cli("status", "--json").stdout)["audit"]["clock"]
    with Server(env={**QUICK, "GRANARY_NODE_REQUIRE_TIME_SYNC": "true"}) as own:
        if state["synchronised"]:
            own.start()
        else:
            with pytest.raises(Exception, match="not synchronised"):
                own.start()


def test_admin_requests_are_in_the_trail(server):
    server.cli("heal")
    found = wait_for(server, lambda e: e["eventName"] == "AdminHeal")
    assert found[0]["eventSource"] == "admin.granary" and found[0]["userIdentity"]["accessKeyId"] == ACCESS_KEY
    bad = subprocess.run(
        [str(server.binary), "status", "--admin", f"127.0.0.1:{server.admin_port}"], capture_output=True, text=True,
        env=os.environ | {"GRANARY_ROOT_ACCESS_KEY": ACCESS_KEY, "GRANARY_ROOT_SECRET_KEY": "wrong-secret-entirely"},
    )  # fmt: skip
    assert bad.returncode == 1
    refused = wait_for(server, lambda e: e["eventName"] == "AdminGetStatus" and e.get("errorCode") == "Forbidden")
    assert refused[0]["userIdentity"]["type"] == "Unknown"
