"""Full drives and the audit trail: writes are refused before events are lost, the trail goes on being sealed in space of its own,
deletes work and are in it, and what it says can be verified afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.drives.damage import MIB
from tests.drives.test_full import DRIVES, mounted  # noqa: F401 - a fixture
from tests.harness import RawClient, Server, boto3_client
from tests.harness.server import find_binary, scratch_dir

SMALL = {
    "GRANARY_DRIVES_SEGMENT_BYTES": str(8 * MIB),
    "GRANARY_DRIVES_RESERVE_BYTES": str(32 * MIB),
    "GRANARY_DRIVES_LOG_FILE_BYTES": str(16 * MIB),
    "GRANARY_STORE_GARBAGE_QUARANTINE_MS": "200",
}
QUICK = {
    "GRANARY_AUDIT_FLUSH_INTERVAL_MS": "20",
    "GRANARY_AUDIT_SEAL_INTERVAL_MS": "500",
    "GRANARY_AUDIT_SEAL_EVENTS": "200",
    "GRANARY_AUDIT_UNSEALED_EVENTS_MAX": "2000",
}
SIZES = (8 * MIB, MIB, 100_000, 20_000, 9_000)
PUTS_MAX = 3_000
READS = 1_500


def put_until_full(client: RawClient) -> tuple[dict[str, str], dict[str, tuple[int, str]]]:
    """Writes ever smaller objects until each size was refused three times. Request ids of the acknowledged, answers of the refused."""
    done: dict[str, str] = {}
    refused: dict[str, tuple[int, str]] = {}
    number = 0
    for size in SIZES:
        before = len(refused)
        while len(refused) < before + 3:
            number += 1
            assert number < PUTS_MAX, "it never got full"
            key = f"full/{number:05d}"
            reply = client.put("full", key, os.urandom(size))
            assert reply.status in (200, 503, 507), f"{reply.status} {reply.body[:200]!r}"
            if reply.status == 200:
                done[key] = reply.headers["x-amz-request-id"]
            else:
                refused[key] = (reply.status, reply.code)
    return done, refused


def unsealed(server: Server) -> dict:
    return json.loads(server.cli("status", "--json").stdout)["audit"]


def wait_sealed(server: Server, below: int) -> dict:
    deadline = time.monotonic() + 60
    while (state := unsealed(server))["unsealed_events"] >= below:
        assert time.monotonic() < deadline, f"nothing is sealed: {state}\n{server.log_tail()}"
        time.sleep(0.2)
    return state


def story(server: Server) -> None:
    server.start()
    client = RawClient("127.0.0.1", server.port, timeout=120)
    assert client.request("PUT", "full").status == 200
    done, refused = put_until_full(client)
    assert len(done) > 10 and {status for status, _ in refused.values()} <= {503, 507}, refused

    # Full. The trail goes on: many more events come (of reads, of refused writes) and are sealed into segments.
    before = wait_sealed(server, 2_000)
    some = sorted(done)
    for number in range(READS):
        assert client.get("full", some[number % len(some)], range="bytes=0-0").status == 206
    for number in range(50):
        key = f"late/{number}"
        reply = client.put("full", key, os.urandom(9_000 if number % 2 else MIB))
        assert reply.status in (503, 507), f"{key}: {reply.status}"
        refused[key] = (reply.status, reply.code)
    after = wait_sealed(server, 200)
    # Up to 200 may not be sealed yet.
    assert after["segments"] > before["segments"] and after["events"] >= before["events"] + READS + 50 - 200

    # Deletes work, one by one and many at once; what was deleted gives room again.
    gone = {key: client.delete("full", key).headers["x-amz-request-id"] for key in some[:3]}
    many = some[3 : len(some) // 2]
    assert client.delete_many("full", many).status == 200
    for key in (*gone, *many):
        assert client.get("full", key).status == 404
    deadline = time.monotonic() + 60
    while (reply := client.put("full", "again", os.urandom(MIB))).status != 200:
        refused.setdefault("again", (reply.status, reply.code))
        assert time.monotonic() < deadline, f"{reply.status} {reply.code}"
        time.sleep(0.25)

    # Nothing is missing: each acknowledged write and delete, each refusal with its code, in one chain without gaps.
    server.cli("audit", "seal")
    events = [json.loads(line) for line in server.cli("audit", "export").stdout.splitlines()]
    assert [e["additionalEventData"]["sequence"] for e in events] == list(range(1, len(events) + 1))
    of = lambda *names: [e for e in events if e["eventName"] in names]  # noqa: E731
    puts = {e["requestParameters"]["key"]: e for e in of("PutObject") if "errorCode" not in e}
    assert {key: puts[key]["requestID"] for key in done} == done
    failed = {(e["requestParameters"]["key"], e["errorCode"]) for e in of("PutObject") if "errorCode" in e}
    assert {(key, code) for key, (_, code) in refused.items()} <= failed
    deletes = {e["requestParameters"]["key"]: e["requestID"] for e in of("DeleteObject") if "errorCode" not in e}
    assert set(many) | set(gone) <= set(deletes) and {key: deletes[key] for key in gone} == gone
    assert len(of("GetObject")) >= READS
    folder = scratch_dir()
    try:
        s3 = boto3_client(server.endpoint)
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket="granary-audit"):
            for entry in page.get("Contents", []):
                path = folder / entry["Key"].replace("/", "_")
                path.write_bytes(s3.get_object(Bucket="granary-audit", Key=entry["Key"])["Body"].read())
        verified = subprocess.run(
            [str(find_binary()), "audit", "verify", str(folder)], capture_output=True, text=True, timeout=120
        )
        assert verified.returncode == 0 and "VERIFIED" in verified.stdout, verified.stdout
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_on_drives_that_are_full_by_setting():
    env = SMALL | QUICK | {"GRANARY_DRIVES_LIMIT_BYTES": str(96 * MIB)}
    with Server(env=env, preset=None) as server:
        story(server)


@pytest.mark.skipif(os.geteuid() != 0, reason="loop mounts need root")
def test_on_full_file_systems(mounted):  # noqa: F811
    mounted.env |= QUICK
    story(mounted)


@pytest.mark.skipif(os.geteuid() != 0, reason="loop mounts need root")
def test_foreign_files_take_the_trails_space_and_no_event_is_lost(mounted):  # noqa: F811
    """Somebody else's files take everything, the reserve and the trail's share too: what is refused is refused before its event
    could be lost, and every event is there when there is room again."""
    mounted.env |= QUICK
    mounted.start()
    client = RawClient("127.0.0.1", mounted.port, timeout=120)
    assert client.request("PUT", "full").status == 200
    done: dict[str, str] = {}
    hogs: list[Path] = []
    for number in range(DRIVES):
        hogs.append(mounted.data / f"drive{number}" / "hog")
        with open(hogs[-1], "wb") as file:
            try:
                while True:
                    file.write(bytes(MIB))
                    file.flush()
            except OSError:
                pass
    deletes: dict[str, str] = {}
    for number in range(600):
        key = f"hogged/{number}"
        try:
            reply = client.put("full", key, os.urandom(2 * MIB if number % 3 == 0 else 5_000))
            if reply.status == 200:
                done[key] = reply.headers["x-amz-request-id"]
                if number % 5 == 0 and (reply := client.delete("full", key)).status == 204:
                    deletes[key] = reply.headers["x-amz-request-id"]
        except OSError:
            continue
        assert reply.status in (200, 204, 503, 507), f"{reply.status} {reply.body[:200]!r}"
    for hog in hogs:
        hog.unlink()
    mounted.kill()
    mounted.start()
    client = RawClient("127.0.0.1", mounted.port, timeout=120)
    assert client.put("full", "after", b"x").status == 200
    events = [json.loads(line) for line in mounted.cli("audit", "export").stdout.splitlines()]
    assert [e["additionalEventData"]["sequence"] for e in events] == list(range(1, len(events) + 1))
    for name, wanted in (("PutObject", done), ("DeleteObject", deletes)):
        seen = {e["requestParameters"]["key"]: e["requestID"] for e in events if e["eventName"] == name and "errorCode" not in e}
        missing = {key for key, request in wanted.items() if seen.get(key) != request}
        assert not missing, f"{len(missing)} of {len(wanted)} acknowledged {name} have no event"
