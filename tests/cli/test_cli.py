"""The binary's fixed face: start, READY, keys, admin commands, drain, restart, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
from botocore.exceptions import ClientError

from tests.harness import Server, boto3_client
from tests.harness.server import ACCESS_KEY, SECRET_KEY, find_binary, scratch_dir


@pytest.fixture
def own():
    """A server of the test's own: small segments, so that starting is quick."""
    with Server(env={"GRANARY_DRIVES_SEGMENT_BYTES": str(64 << 20)}) as server:
        yield server


def run(*arguments: str, env: dict[str, str] | None = None, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRANARY_")} | (env or {})
    return subprocess.run(
        [str(find_binary()), *arguments], capture_output=True, text=True, timeout=seconds, env=environment
    )


def test_dev_serves_keeps_its_data_and_drains(own):
    own.start()
    s3 = boto3_client(own.endpoint)
    names = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    assert names == ["artefacts", "cache", "processed", "raw"]
    body = os.urandom(300_000)
    s3.put_object(Bucket="processed", Key="k", Body=body)
    assert own.admin_get("/health/live")[0] == 200
    assert own.admin_get("/health/ready") == (200, "ready\n")
    assert own.stop() == 0
    own.start()
    assert boto3_client(own.endpoint).get_object(Bucket="processed", Key="k")["Body"].read() == body
    assert own.stop() == 0


def test_preset_buckets_have_their_settings(own):
    own.start()
    s3 = boto3_client(own.endpoint)
    assert s3.get_bucket_versioning(Bucket="raw")["Status"] == "Enabled"
    s3.put_object(Bucket="raw", Key="once", Body=b"1")
    with pytest.raises(ClientError):
        s3.put_object(Bucket="raw", Key="once", Body=b"2")
    etag = s3.put_object(Bucket="artefacts", Key="checkpoint", Body=b"x" * 20_000)["ETag"]
    assert "-" in etag, "artefacts has opaque ETags"
    assert "-" not in s3.put_object(Bucket="processed", Key="p", Body=b"x" * 20_000)["ETag"]


def test_wrong_keys_are_refused(own):
    own.start()
    import boto3
    from botocore.config import Config

    for access, secret in [(ACCESS_KEY, "not-the-secret-at-all"), ("NOBODY", SECRET_KEY)]:
        client = boto3.client(
            "s3", endpoint_url=own.endpoint, region_name="us-east-1",
            aws_access_key_id=access, aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )  # fmt: skip
        with pytest.raises(ClientError) as refused:
            client.list_buckets()
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    admin = f"127.0.0.1:{own.admin_port}"
    wrong = run("status", "--admin", admin, env={"GRANARY_ROOT_ACCESS_KEY": ACCESS_KEY, "GRANARY_ROOT_SECRET_KEY": "wrong-secret"})
    assert wrong.returncode == 1 and "signature is not the root keys'" in wrong.stderr
    for path in ["/admin/v1/status", "/admin/v1/drives", "/nothing"]:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(own.admin + path)
        assert refused.value.code == 403


def test_status_drives_and_metrics(own):
    own.start()
    boto3_client(own.endpoint).put_object(Bucket="processed", Key="k", Body=b"x" * 200_000)
    said = own.cli("status", "--json")
    assert said.returncode == 0, said.stderr
    status = json.loads(said.stdout)
    assert status["ready"] is True and status["endpoint"] == own.endpoint
    assert len(status["node"]["drives"]) == 6 and status["node"]["scheme"] == "4+2"
    assert status["node"]["drives_spare"] == 2
    assert own.cli("status").stdout.count(" online ") == 6
    assert own.cli("drive", "list").stdout.count(" online ") == 6
    assert own.cli("health").returncode == 0
    page = own.admin_get("/metrics")[1]
    assert 'granary_requests_total{op="PutObject",status="2xx"} 1' in page
    assert "granary_ready 1" in page and 'granary_drive_online{drive="d' in page


def test_scrub_and_heal_find_nothing_to_do(own):
    own.start()
    boto3_client(own.endpoint).put_object(Bucket="processed", Key="k", Body=os.urandom(5_000_000))
    scrub = own.cli("drive", "scrub")
    assert scrub.returncode == 0, scrub.stderr
    assert scrub.stdout.count("no damage") == 6
    heal = own.cli("heal", "--deep")
    assert heal.returncode == 0, heal.stderr
    assert " 0 failed" in heal.stdout


def test_a_drive_is_added_and_replaced(own):
    own.start()
    s3 = boto3_client(own.endpoint)
    body = os.urandom(2_000_000)
    s3.put_object(Bucket="processed", Key="k", Body=body)
    first, second = own.data / "seventh", own.data / "eighth"
    for folder in (first, second):
        folder.mkdir()
    added = own.cli("drive", "add", str(first))
    assert added.returncode == 0 and "is in use" in added.stdout, added.stderr
    replaced = own.cli("drive", "replace", "d0", str(second))
    assert replaced.returncode == 0 and " 0 failed" in replaced.stdout, replaced.stderr
    assert s3.get_object(Bucket="processed", Key="k")["Body"].read() == body
    own.drives = None  # the folder's own list says it now
    own.stop()
    line = [part for part in own.command() if part not in ("--drives", "None")]
    own.command = lambda: line
    own.start()
    assert boto3_client(own.endpoint).get_object(Bucket="processed", Key="k")["Body"].read() == body
    drives = json.loads(own.cli("drive", "list", "--json").stdout)
    assert sum(not drive["retired"] for drive in drives) == 7


def test_a_second_server_on_the_same_data_is_refused(own):
    own.start()
    second = run("dev", "--data", str(own.data), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert second.returncode == 1
    assert "another granary server" in second.stderr and f"pid {own.process.pid}" in second.stderr


def test_a_port_in_use_is_told_at_once():
    home = scratch_dir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = run("dev", "--data", str(home / "d"), "--listen", address, "--admin", "127.0.0.1:0")
    assert said.returncode == 1 and f"cannot listen on {address}" in said.stderr


def test_generated_keys_are_shown_once_and_kept_private():
    home = scratch_dir()
    data = home / "data"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRANARY_")}
    environment["GRANARY_DRIVES_SEGMENT_BYTES"] = str(64 << 20)

    def start_and_stop(*more: str) -> list[str]:
        line = [str(find_binary()), "dev", "--data", str(data), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        process = subprocess.Popen([*line, *more], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        lines = []
        for text in process.stdout:
            lines.append(text.rstrip("\n"))
            if text.startswith("READY "):
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        return lines

    def exported(lines: list[str], name: str) -> str:
        script = "\n".join(lines[:-1]) + f'\nprintf %s "${name}"'
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout

    first = start_and_stop()
    assert first[-1].startswith("READY http://127.0.0.1:")
    access, secret = (data / "root-keys").read_text().split()
    assert any(secret in line for line in first), "a new secret is shown"
    later = start_and_stop()
    assert not any(secret in line for line in later), "and not again"
    for lines in (first, later):
        assert exported(lines, "AWS_ACCESS_KEY_ID") == access
        assert exported(lines, "AWS_SECRET_ACCESS_KEY") == secret, "yet the lines can be pasted"
        assert exported(lines, "AWS_ENDPOINT_URL").startswith("http://127.0.0.1:")
    assert any(secret in line for line in start_and_stop("--show-secret"))
    for private in ("root-keys", "root.key"):
        assert stat.S_IMODE((data / private).stat().st_mode) == 0o600
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in data.rglob("*"))


def test_the_sealing_key_is_never_made_anew(own):
    own.start()
    own.stop()
    (own.data / "root.key").rename(own.data / "elsewhere")
    own.spawn()
    assert own.process.wait(60) == 1
    assert "root.key is missing" in own.log()
    (own.data / "elsewhere").rename(own.data / "root.key")
    own.start()


def test_sigterm_lets_a_request_finish_and_takes_no_new_ones(own):
    own.start()
    total = 6_000_000
    pulled = threading.Event()

    class Slow:
        """A body that is still being sent when the server is told to stop."""

        def __init__(self) -> None:
            self.sent = 0
            self.pauses = 0

        def __len__(self) -> int:
            return total

        def read(self, size: int = -1) -> bytes:
            if self.sent >= total:
                return b""
            if self.sent > total // 2 and self.pauses < 10:
                pulled.set()
                self.pauses += 1
                time.sleep(0.2)
            size = min(size if size > 0 else 65_536, 500_000, total - self.sent)
            self.sent += size
            return b"s" * size

    outcome: list[object] = []

    def upload() -> None:
        request = urllib.request.Request(url, data=Slow(), method="PUT", headers={"Content-Length": str(total)})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                outcome.append(answer.status)
        except Exception as error:  # noqa: BLE001 - whatever it is, the assertion below shows it
            outcome.append(error)

    url = boto3_client(own.endpoint, signature="s3v4").generate_presigned_url(
        "put_object", Params={"Bucket": "processed", "Key": "late"}
    )
    uploading = threading.Thread(target=upload)
    uploading.start()
    assert pulled.wait(30)
    own.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", own.port), timeout=2).close()
    uploading.join(60)
    assert outcome == [200], own.log_tail()
    assert own.process.wait(60) == 0
    own.start()
    assert boto3_client(own.endpoint).head_object(Bucket="processed", Key="late")["ContentLength"] == total


def test_slow_headers_are_cut_and_an_idle_connection_is_not(own):
    own.env |= {"GRANARY_S3_HEADER_TIMEOUT_MS": "500", "GRANARY_S3_IDLE_TIMEOUT_MS": "60000"}
    own.start()
    with socket.create_connection(("127.0.0.1", own.port)) as slow:
        slow.settimeout(20)
        slow.sendall(b"GET / HTTP/1.1\r\n")
        assert slow.recv(100) == b"", "a dribbled head is cut"
    with socket.create_connection(("127.0.0.1", own.port)) as idle:
        idle.settimeout(20)
        ask = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        idle.sendall(ask)
        assert idle.recv(65_536).startswith(b"HTTP/1.1 403")
        time.sleep(1.5)
        idle.sendall(ask)
        assert idle.recv(65_536).startswith(b"HTTP/1.1 403")


def test_serve_takes_a_settings_file_and_names_what_is_wrong_in_one():
    home = scratch_dir()
    config = home / "granary.toml"
    config.write_text("[s3]\nlisen = '127.0.0.1:1'\n")
    said = run("serve", "--config", str(config))
    assert said.returncode == 1 and "did you mean `s3.listen`?" in said.stderr
    drives = [home / f"d{n}" for n in range(3)]
    for drive in drives:
        drive.mkdir()
    config.write_text(
        f"[node]\ndata_dir = '{home}/node'\n[drives]\npaths = {[str(d) for d in drives]}\nerasure = '2+1'\n"
        "segment_bytes = 67108864\n[s3]\nlisten = '127.0.0.1:0'\nplaintext = true\n"
        "[admin]\nlisten = '127.0.0.1:0'\n"
    )
    with Server(config=config, preset=None) as server:
        server.start()
        ready = next(line for line in server.log().splitlines() if line.startswith("READY "))
        s3 = boto3_client(ready.removeprefix("READY "))
        s3.create_bucket(Bucket="served")
        s3.put_object(Bucket="served", Key="k", Body=b"v" * 300_000)
        status = run("status", "--json", "--config", str(config), env={
            "GRANARY_ROOT_ACCESS_KEY": ACCESS_KEY, "GRANARY_ROOT_SECRET_KEY": SECRET_KEY})  # fmt: skip
        assert json.loads(status.stdout)["node"]["scheme"] == "2+1", status.stderr
        assert server.stop() == 0


def test_commands_without_a_node_or_without_keys_say_what_to_do():
    home = scratch_dir()
    keys = {"GRANARY_ROOT_ACCESS_KEY": ACCESS_KEY, "GRANARY_ROOT_SECRET_KEY": SECRET_KEY}
    nobody = run("status", "--admin", "127.0.0.1:9", env=keys)
    assert nobody.returncode == 1 and "no node answers at 127.0.0.1:9" in nobody.stderr
    no_keys = run("status", "--data", str(home / "nowhere"))
    assert no_keys.returncode == 1 and "no root keys" in no_keys.stderr
