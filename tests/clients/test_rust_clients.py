"""AWS's SDK for Rust and Apache Arrow's object_store (rust/), over plain HTTP and over TLS. `make test-clients` builds them; where they have not
been built the tests skip and say so. object_store's own integration suite is among what runs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.harness import Server, boto3_client, client_env
from tests.harness.server import REPOSITORY


@pytest.fixture(scope="module")
def program() -> str:
    """$GRANARY_RUST_CLIENTS, else where `make test-clients` builds it."""
    named = os.environ.get("GRANARY_RUST_CLIENTS")
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    built = Path(named) if named else target / "debug" / "s3-clients"
    if not built.is_file():
        pytest.skip(f"no {built}: make test-clients builds it (tests/clients/rust)")
    return str(built)


@pytest.fixture(scope="module")
def secure_server():
    """With a certificate of its own making."""
    with Server(extra=("--tls",)) as running:
        running.start()
        yield running


def run(program: str, client: str, endpoint: str, bucket: str, *ca: str) -> None:
    done = subprocess.run([program, client, endpoint, bucket, *ca], env=client_env(endpoint), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and done.stdout.strip() == "fine", done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.parametrize("client", ["aws-sdk", "object-store"])
def test_over_http(program, server, bucket, client):
    run(program, client, server.endpoint, bucket)


@pytest.mark.parametrize("client", ["aws-sdk", "object-store"])
def test_over_tls(program, secure_server, bucket_name, client, monkeypatch):
    said = {name: re.findall(rf"^export {name}=(\S+)$", secure_server.log(), re.M)[-1] for name in ("AWS_ENDPOINT_URL", "AWS_CA_BUNDLE")}
    assert said["AWS_ENDPOINT_URL"].startswith("https://")
    monkeypatch.setenv("AWS_CA_BUNDLE", said["AWS_CA_BUNDLE"])
    boto3_client(said["AWS_ENDPOINT_URL"]).create_bucket(Bucket=bucket_name)
    run(program, client, said["AWS_ENDPOINT_URL"], bucket_name, said["AWS_CA_BUNDLE"])
