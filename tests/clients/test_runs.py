"""Which run is starving: run ids by header, user agent, app id and key, in metrics and `granary top`."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time

import pytest

from tests.harness import ACCESS_KEY, Content, Server, boto3_client, client_env
from tests.harness.granary import Signed

MIB = 1 << 20


@pytest.fixture(scope="module")
def server():
    """A server of these tests' own: so many buckets of a run are told apart, and the shared one has met more."""
    with Server() as running:
        running.start()
        yield running


def series(server, name: str) -> dict[tuple[str, str], float]:
    """One metric by run and bucket."""
    page = server.admin_get("/metrics")[1]
    found = {}
    for labels, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", page, re.MULTILINE):
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        key = (pairs["run"], pairs["bucket"])
        found[key] = found.get(key, 0) + float(value)
    return found


def until(condition, seconds: float = 90.0):
    """Requests are counted when their last byte is sent, which the client may see first."""
    deadline = time.monotonic() + seconds
    while not (got := condition()):
        assert time.monotonic() < deadline, "did not come to be"
        time.sleep(0.05)
    return got


def test_runs_are_told_apart(server, s3, bucket):
    data = Content(1, 3 * MIB).data()
    named = f"run-{bucket[-6:]}"
    header, agent, app = f"{named}-h", f"{named}-a", f"{named}.app"
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    ask = Signed(server.endpoint)
    assert ask("GET", f"/{bucket}/k", headers={"x-granary-run": header}).body == data
    ask("GET", f"/{bucket}/gone", headers={"x-granary-run": header})
    by_agent = boto3_client(server.endpoint, user_agent_extra=f"granary-run/{agent}")
    for _ in range(3):
        assert by_agent.get_object(Bucket=bucket, Key="k")["Body"].read() == data
    boto3_client(server.endpoint, user_agent_appid=app).put_object(Bucket=bucket, Key="k2", Body=data)
    env = client_env(server.endpoint, AWS_SDK_UA_APP_ID=f"{app}-cli")
    done = subprocess.run(["aws", "s3", "ls", f"s3://{bucket}/"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

    requests = until(lambda: (r := series(server, "granary_run_requests_total")).get((f"{app}-cli", bucket)) and r)
    assert requests[(header, bucket)] == 2 and requests[(agent, bucket)] == 3 and requests[(app, bucket)] == 1
    assert series(server, "granary_run_errors_total")[(header, bucket)] == 1
    assert series(server, "granary_run_response_bytes_total")[(agent, bucket)] == 3 * len(data)
    assert series(server, "granary_run_request_bytes_total")[(app, bucket)] == len(data)
    assert series(server, "granary_run_first_byte_seconds_count")[(agent, bucket)] == 3
    assert series(server, "granary_run_drive_wait_seconds_total")[(agent, bucket)] > 0, "3 MiB come from drives"
    assert series(server, "granary_run_drive_wait_seconds_total")[(app, bucket)] > 0
    misses = {k: v for k, v in series(server, "granary_run_cache_chunks_total").items() if k == (agent, bucket)}
    assert misses[(agent, bucket)] >= 3 * len(data) // 65_520


def test_keys_of_artefacts_name_their_run(server, s3):
    s3.put_object(Bucket="artefacts", Key="run-by-key/step_1/model.pt", Body=b"x")
    s3.put_object(Bucket="artefacts", Key="loose.pt", Body=b"x")
    requests = until(lambda: (r := series(server, "granary_run_requests_total")).get(("-", "artefacts")) and r)
    assert requests[("run-by-key", "artefacts")] >= 1


def test_who_is_refused_names_no_runs(server, bucket):
    ask = Signed(server.endpoint, ACCESS_KEY, "x" * 40)
    assert ask("GET", f"/{bucket}/k", headers={"x-granary-run": "intruder"}).status == 403
    assert Signed(server.endpoint)("GET", f"/{bucket}/k", headers={"x-granary-run": "intruder"}, signed=False).status == 403
    Signed(server.endpoint)("HEAD", f"/{bucket}", headers={"x-granary-run": "after"})
    until(lambda: ("after", bucket) in series(server, "granary_run_requests_total"))
    assert not [key for key in series(server, "granary_run_requests_total") if key[0] == "intruder"]


def test_a_slow_reader_shows_as_waiting_for_the_client(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=Content(2, 24 * MIB).data())
    url = Signed(server.endpoint).presigned(f"/{bucket}/k")
    import socket
    import urllib.parse

    parts = urllib.parse.urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        slow.sendall(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nx-granary-run: slow\r\n"
                     "Connection: close\r\n\r\n".encode())  # fmt: skip
        time.sleep(1.0)
        while slow.recv(1 << 20):
            pass
    waited = until(lambda: series(server, "granary_run_client_wait_seconds_total").get(("slow", bucket)))
    busy = series(server, "granary_run_request_seconds_total")[("slow", bucket)]
    assert 0.5 < waited <= busy


def test_top_shows_what_runs_ask_for():
    # A server of its own: the bound of two runs is to be met.
    with Server(env={"GRANARY_ADMIN_RUNS_MAX": "2", "GRANARY_AI_CACHE_BYTES": str(64 * MIB)}) as server:
        server.start()
        s3 = boto3_client(server.endpoint)
        s3.create_bucket(Bucket="loops")
        s3.put_object(Bucket="loops", Key="k", Body=Content(3, MIB).data())
        ask = Signed(server.endpoint)
        done = threading.Event()

        def load():
            while not done.is_set():
                for run in ("one", "two", "three", "four"):
                    ask("GET", "/loops/k", headers={"x-granary-run": run})

        worker = threading.Thread(target=load)
        worker.start()
        try:
            told = server.cli("top", "--once", "--json", "--interval", "1.5")
            table = server.cli("top", "--once", "--interval", "1")
            wrong = server.cli("top", "--once", "--interval", "0")
        finally:
            done.set()
            worker.join()
        assert told.returncode == 0, told.stderr
        rows = {(row["run"], row["bucket"]): row for row in json.loads(told.stdout)["runs"]}
        # The first two are told apart, unless one of `other` has asked for more than twice as much meanwhile.
        assert len([key for key in rows if key[0] != "other"]) <= 2 and ("other", "loops") in rows
        for row in rows.values():
            assert row["requests_per_s"] > 0 and row["bytes_out_per_s"] > 0 and row["errors_per_s"] == 0
            assert 0 < row["first_byte_p50_ms"] <= row["first_byte_p99_ms"]
            assert row["cache_hit_percent"] > 50, "one object, read again and again"
        assert table.returncode == 0 and "CLIENT%" in table.stdout and "loops" in table.stdout
        assert wrong.returncode == 1 and "--interval is 0" in wrong.stderr
