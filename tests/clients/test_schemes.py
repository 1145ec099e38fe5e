"""Clients as they are, over http and https, with buckets in the path and in the host name: boto3 of today and of before default
checksums, and AWS CLI v1."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.harness import Content, Server, client_env
from tests.harness.server import scratch_dir

from .test_other_clients import PROGRAMS, old_python, run  # noqa: F401

DOMAIN = "s3.granary.test"
MIB = 1024 * 1024


@pytest.fixture(scope="module", params=["http", "https"])
def door(request):
    """A server of that scheme, which is called `s3.granary.test`: its endpoint, and what trusts it."""
    if request.param == "http":
        with Server(env={"GRANARY_S3_DOMAINS": DOMAIN}) as server:
            server.start()
            yield f"http://{DOMAIN}:{server.port}", {}
        return
    home = scratch_dir()
    drives = [home / f"d{n}" for n in range(3)]
    [drive.mkdir() for drive in drives]
    config = home / "granary.toml"
    config.write_text(
        f"[node]\ndata_dir = '{home}/node'\n[drives]\npaths = {[str(d) for d in drives]}\nerasure = '2+1'\n"
        f"segment_bytes = 67108864\nreserve_bytes = 67108864\n"
        f"[s3]\nlisten = '127.0.0.1:0'\ndomains = ['{DOMAIN}']\ntls_names = ['{DOMAIN}', '*.{DOMAIN}']\n[admin]\nlisten = '127.0.0.1:0'\n"
    )
    with Server(config=config, preset=None) as server:
        server.start()
        port = server.log().split("export AWS_ENDPOINT_URL=", 1)[1].split()[0].rsplit(":", 1)[1]
        yield f"https://{DOMAIN}:{port}", dict.fromkeys(("AWS_CA_BUNDLE", "SSL_CERT_FILE"), str(home / "node" / "tls" / "ca.crt"))
    shutil.rmtree(home, ignore_errors=True)


def environment(endpoint: str, trust: dict[str, str]) -> dict[str, str]:
    return client_env(endpoint, PYTHONPATH=str(PROGRAMS / "resolve"), **trust)


@pytest.mark.parametrize("style", ["path", "virtual"])
@pytest.mark.parametrize("age", ["now", "1.34"])
def test_boto3(request, door, style, age):
    endpoint, trust = door
    python = sys.executable if age == "now" else request.getfixturevalue("old_python")
    bucket = f"boto3-{style}-{age.replace('.', '-')}"
    env = environment(endpoint, trust)
    aws(env, style, "s3", "mb", f"s3://{bucket}")
    done = run([python, str(PROGRAMS / "boto3_round.py"), endpoint, bucket, style, "" if age == "now" else "1.34."], env)
    assert "fine" in done


def aws(env: dict[str, str], style: str, *line: str) -> str:
    """AWS CLI v1 of tests/requirements.txt, which takes the style from a configuration file only."""
    program = shutil.which("aws")
    assert program, "awscli is in tests/requirements.txt, but `aws` is not on PATH"
    home = scratch_dir()
    config = home / "config"
    config.write_text(f"[default]\ns3 =\n    addressing_style = {style}\n    multipart_threshold = 5MB\n    multipart_chunksize = 5MB\n")
    try:
        return run([program, *line], env | {"AWS_CONFIG_FILE": str(config)})
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize("style", ["path", "virtual"])
def test_aws_cli(door, style, tmp_path):
    env = environment(*door)
    bucket = f"cli-{style}"
    version = subprocess.run([shutil.which("aws") or "aws", "--version"], capture_output=True, text=True, env=env)
    assert (version.stdout + version.stderr).startswith("aws-cli/1."), version
    aws(env, style, "s3", "mb", f"s3://{bucket}")
    data = Content(3, 12 * MIB + 1).data()
    (tmp_path / "large").write_bytes(data)
    (tmp_path / "small").write_bytes(b"small")
    aws(env, style, "s3", "cp", "--recursive", str(tmp_path), f"s3://{bucket}/p ü/")
    listed = aws(env, style, "s3api", "list-objects-v2", "--bucket", bucket, "--query", "Contents[].Size", "--output", "text")
    assert listed.split() == [str(len(data)), "5"]
    aws(env, style, "s3", "cp", f"s3://{bucket}/p ü/large", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    url = aws(env, style, "s3", "presign", f"s3://{bucket}/p ü/small").strip()
    assert url.startswith(f"{door[0].split('://')[0]}://" + (f"{bucket}.{DOMAIN}" if style == "virtual" else DOMAIN))
    aws(env, style, "s3", "rm", "--recursive", f"s3://{bucket}")
    aws(env, style, "s3", "rb", f"s3://{bucket}")
