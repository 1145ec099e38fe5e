"""TLS from outside: on by default in `serve`, 1.3 only, reloaded under load, client certificates, the admin port."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time
from pathlib import Path

import botocore.exceptions
import pytest

from tests.harness import Server, boto3_client, client_env
from tests.harness.server import free_port, scratch_dir


def exported(server: Server, name: str) -> str:
    """The last value of a variable among the start-up lines."""
    return re.findall(rf"^export {name}=(\S+)$", server.log(), re.M)[-1]


def secure(monkeypatch, server: Server):
    """A boto3 client that trusts the node's own authority, as the start-up lines tell it to."""
    monkeypatch.setenv("AWS_CA_BUNDLE", exported(server, "AWS_CA_BUNDLE"))
    return boto3_client(exported(server, "AWS_ENDPOINT_URL"))


def handshake(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), 10)
    return context.wrap_socket(raw, server_hostname="127.0.0.1")


@pytest.fixture
def serving():
    """`granary serve` with nothing said about TLS."""
    home = scratch_dir()
    drives = [home / f"d{n}" for n in range(3)]
    for drive in drives:
        drive.mkdir()
    config = home / "granary.toml"
    config.write_text(
        f"[node]\ndata_dir = '{home}/node'\n[drives]\npaths = {[str(d) for d in drives]}\nerasure = '2+1'\n"
        "segment_bytes = 67108864\n[s3]\nlisten = '127.0.0.1:0'\n[admin]\nlisten = '127.0.0.1:0'\n"
    )
    with Server(config=config, preset=None) as server:
        server.start()
        server.port = int(exported(server, "AWS_ENDPOINT_URL").rsplit(":", 1)[1])
        yield server, config, home / "node" / "tls"
    shutil.rmtree(home, ignore_errors=True)


def test_serve_speaks_tls_by_default_with_a_certificate_of_its_own(serving, monkeypatch):
    server, config, tls = serving
    endpoint = exported(server, "AWS_ENDPOINT_URL")
    assert endpoint.startswith("https://127.0.0.1:")
    ca = tls / "ca.crt"
    assert exported(server, "AWS_CA_BUNDLE") == str(ca)
    der = ssl.PEM_cert_to_DER_cert(ca.read_text())
    digest = hashlib.sha256(der).hexdigest().upper()
    shown = ":".join(digest[i : i + 2] for i in range(0, 64, 2))
    assert f"# TLS 1.3, CA {ca} SHA-256 {shown}" in server.log()
    status = server.run("status", "--config", str(config))
    assert f"CA {ca} SHA-256 {shown}" in status.stdout and "PLAINTEXT" not in status.stdout, status.stderr
    for name, mode in {"ca.crt": 0o644, "server.crt": 0o644, "ca.key": 0o600, "server.key": 0o600}.items():
        assert stat.S_IMODE((tls / name).stat().st_mode) == mode, name

    # Only over TLS does boto3 send unsigned aws-chunked bodies with a checksum as trailer.
    s3 = secure(monkeypatch, server)
    s3.create_bucket(Bucket="served")
    body = os.urandom(3_000_000)
    seen = []
    s3.meta.events.register("before-send.s3.PutObject", lambda request, **_: seen.append(dict(request.headers)))
    put = s3.put_object(Bucket="served", Key="k", Body=body)
    assert put["ChecksumCRC32"] and b"STREAMING-UNSIGNED-PAYLOAD-TRAILER" in str(seen).encode()
    got = s3.get_object(Bucket="served", Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == body
    file = config.parent / "file"
    file.write_bytes(body)
    aws = Path(shutil.which("aws") or "aws")
    for line in (["s3", "cp", str(file), "s3://served/cli"], ["s3", "cp", "s3://served/cli", str(file) + ".back"]):
        done = subprocess.run(
            [str(aws), *line], capture_output=True, text=True, timeout=120,
            env=client_env(endpoint, AWS_CA_BUNDLE=str(ca)),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert Path(str(file) + ".back").read_bytes() == body

    # The authority outlives a restart: clients need be told once.
    before = ca.read_bytes()
    server.restart()
    assert ca.read_bytes() == before
    assert secure(monkeypatch, server).head_object(Bucket="served", Key="k")["ContentLength"] == len(body)


def test_nothing_but_tls_1_3_and_aes_256_first_and_http_2(serving, monkeypatch):
    server, _, tls = serving
    port = server.port
    ca = str(tls / "ca.crt")
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with handshake(port, context) as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.cipher()[0] == "TLS_AES_256_GCM_SHA384"
        assert connection.selected_alpn_protocol() == "h2"
    old = ssl.create_default_context(cafile=ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="(?i)protocol.version|alert"):
        handshake(port, old)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(port, ssl.create_default_context())
    # Plain HTTP on the TLS port is not answered with anything of S3.
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            answer = plain.recv(4096)
        assert b"HTTP" not in answer
    said = subprocess.run(
        ["curl", "-sS", "--http2", "--cacert", ca, "-o", "/dev/null", "-w", "%{http_version} %{http_code}",
         f"https://127.0.0.1:{port}/"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert said.stdout == "2 403", said
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    with pytest.raises(botocore.exceptions.SSLError):
        boto3_client(f"https://127.0.0.1:{port}").list_buckets()


def openssl(*line: str, cwd: Path) -> None:
    done = subprocess.run(["openssl", *line], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def issue(home: Path, name: str, authority: str | None = None, usage: str = "serverAuth") -> None:
    """`name`.crt and `name`.key: an authority, or a certificate for 127.0.0.1 of one."""
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key", cwd=home)
    if authority is None:
        openssl("req", "-x509", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-days", "2",
                "-addext", "keyUsage=critical,keyCertSign", "-out", f"{name}.crt", cwd=home)  # fmt: skip
        return
    (home / "ext").write_text(
        f"subjectAltName=IP:127.0.0.1\nextendedKeyUsage={usage}\nbasicConstraints=CA:FALSE\n"
    )
    openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr", cwd=home)
    openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key",
            "-CAcreateserial", "-days", "2", "-extfile", "ext", "-out", f"{name}.crt", cwd=home)  # fmt: skip


def serial(port: int, ca: str) -> int:
    with handshake(port, ssl.create_default_context(cafile=ca)) as connection:
        return int(connection.getpeercert()["serialNumber"], 16)


@pytest.fixture
def home():
    made = scratch_dir()
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_a_new_certificate_is_taken_under_load_without_losing_a_connection(home, monkeypatch):
    issue(home, "ca")
    for name in ("one", "two"):
        issue(home, name, "ca")
    for end in ("crt", "key"):
        shutil.copy(home / f"one.{end}", home / f"used.{end}")
    env = {
        "GRANARY_S3_TLS_CERT_FILE": str(home / "used.crt"),
        "GRANARY_S3_TLS_KEY_FILE": str(home / "used.key"),
        "GRANARY_S3_TLS_CHECK_INTERVAL_MS": "3600000",
    }
    ca = str(home / "ca.crt")
    monkeypatch.setenv("AWS_CA_BUNDLE", ca)
    with Server(extra=("--tls",), env=env) as server:
        server.start()
        endpoint = exported(server, "AWS_ENDPOINT_URL")
        first = serial(server.port, ca)
        # One connection that is open through all of it.
        context = ssl.create_default_context(cafile=ca)
        kept = handshake(server.port, context)
        ask = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        kept.sendall(ask)
        assert kept.recv(65_536).startswith(b"HTTP/1.1 403")
        failures, counts, stop = [], [0, 0, 0], threading.Event()

        def load(number: int) -> None:
            s3 = boto3_client(endpoint, retries=0)
            while not stop.is_set():
                try:
                    body = os.urandom(200_000)
                    s3.put_object(Bucket="cache", Key=f"{number}", Body=body)
                    assert s3.get_object(Bucket="cache", Key=f"{number}")["Body"].read() == body
                    counts[number] += 1
                    if counts[number] % 5 == 0:
                        s3 = boto3_client(endpoint, retries=0)  # a new connection now and then
                except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure
                    failures.append(error)
                    return

        def all_have_moved_on() -> None:
            before = counts[:]
            while not failures and any(now == was for now, was in zip(counts, before)):
                time.sleep(0.02)

        workers = [threading.Thread(target=load, args=(n,)) for n in range(3)]
        for worker in workers:
            worker.start()
        all_have_moved_on()
        # Files that do not fit: told, and nothing changes.
        shutil.copy(home / "two.crt", home / "used.crt")
        server.process.send_signal(signal.SIGHUP)
        waited = time.monotonic() + 120
        while "NOT RELOADED" not in server.cli("status").stdout:
            assert time.monotonic() < waited
        assert serial(server.port, ca) == first
        shutil.copy(home / "two.key", home / "used.key")
        server.process.send_signal(signal.SIGHUP)
        while serial(server.port, ca) == first:
            assert time.monotonic() < waited
        all_have_moved_on()
        stop.set()
        for worker in workers:
            worker.join()
        assert not failures
        kept.sendall(ask)
        assert kept.recv(65_536).startswith(b"HTTP/1.1 403"), "the old connection goes on"
        kept.close()
        assert "NOT RELOADED" not in server.cli("status").stdout


def test_changed_files_are_noticed_without_a_signal(home):
    issue(home, "ca")
    for name in ("one", "two"):
        issue(home, name, "ca")
    for end in ("crt", "key"):
        shutil.copy(home / f"one.{end}", home / f"used.{end}")
    env = {
        "GRANARY_S3_TLS_CERT_FILE": str(home / "used.crt"),
        "GRANARY_S3_TLS_KEY_FILE": str(home / "used.key"),
        "GRANARY_S3_TLS_CHECK_INTERVAL_MS": "50",
    }
    ca = str(home / "ca.crt")
    with Server(extra=("--tls",), env=env) as server:
        server.start()
        first = serial(server.port, ca)
        for end in ("crt", "key"):
            shutil.copy(home / f"two.{end}", home / f"new.{end}")
            os.replace(home / f"new.{end}", home / f"used.{end}")
        waited = time.monotonic() + 60
        while serial(server.port, ca) == first:
            assert time.monotonic() < waited


def test_client_certificates_are_required_where_the_setting_says_so(home):
    issue(home, "clients")
    issue(home, "mine", "clients", usage="clientAuth")
    issue(home, "strangers")
    issue(home, "theirs", "strangers", usage="clientAuth")
    with Server(extra=("--tls",), env={"GRANARY_S3_TLS_CLIENT_CA_FILE": str(home / "clients.crt")}) as server:
        server.start()
        assert "client certificates required" in server.log()
        ca = exported(server, "AWS_CA_BUNDLE")
        url = f"https://127.0.0.1:{server.port}/"

        def ask(*more: str) -> str:
            line = ["curl", "-sS", "--cacert", ca, "-o", "/dev/null", "-w", "%{http_code}", *more, url]
            return subprocess.run(line, capture_output=True, text=True, timeout=60).stdout

        assert ask("--cert", str(home / "mine.crt"), "--key", str(home / "mine.key")) == "403"
        assert ask() == "000"
        assert ask("--cert", str(home / "theirs.crt"), "--key", str(home / "theirs.key")) == "000"


def test_plain_http_beyond_loopback_is_told_again_and_again(home):
    port, admin = free_port(), free_port()
    with Server(extra=(), env={"GRANARY_S3_PLAINTEXT": "true", "GRANARY_ADMIN_PLAINTEXT": "true"}) as server:
        server.port, server.admin_port = port, admin
        server.command = lambda: [
            str(server.binary), "dev", "--data", str(server.data), "--listen", f"0.0.0.0:{port}",
            "--admin", f"0.0.0.0:{admin}", "--drives", "3", "--erasure", "2+1",
        ]  # fmt: skip
        server.start()
        assert server.log().count("# PLAINTEXT") == 2
        assert server.cli("status").stdout.count("PLAINTEXT") == 2
        assert boto3_client(server.endpoint).list_buckets()["Buckets"] == []


def test_beyond_loopback_both_ports_speak_tls_unless_told_otherwise(monkeypatch):
    with Server() as server:
        port, admin = server.port, server.admin_port
        server.command = lambda: [
            str(server.binary), "dev", "--data", str(server.data), "--listen", f"0.0.0.0:{port}",
            "--admin", f"0.0.0.0:{admin}", "--drives", "3", "--erasure", "2+1",
        ]  # fmt: skip
        server.start()
        assert "PLAINTEXT" not in server.log()
        assert f"# admin: https://0.0.0.0:{admin}" in server.log()
        ca = exported(server, "AWS_CA_BUNDLE")
        context = ssl.create_default_context(cafile=ca)
        with handshake(admin, context) as connection:
            assert connection.version() == "TLSv1.3"
        # Commands find the certificate by the data folder, or are told.
        assert "ready" in server.run("status", "--data", str(server.data)).stdout
        assert "ready" in server.cli("status", "--ca", ca).stdout
        assert server.run("health", "--data", str(server.data)).returncode == 0
        blind = server.cli("status")
        assert blind.returncode == 1 and "it speaks TLS: give --ca" in blind.stderr
        wrong = scratch_dir()
        issue(wrong, "other")
        refused = server.cli("status", "--ca", str(wrong / "other.crt"))
        assert refused.returncode == 1 and "certificate" in refused.stderr
        shutil.rmtree(wrong)
        monkeypatch.setenv("AWS_CA_BUNDLE", ca)
        assert boto3_client(f"https://127.0.0.1:{port}").list_buckets()["Buckets"] == []
