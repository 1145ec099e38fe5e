"""Clients that need an environment of their own: boto3 1.34, MinIO's library, s3cmd. Skipped, saying so, where pip has no way out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.harness import ACCESS_KEY, SECRET_KEY, Content

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).with_name("programs")


@pytest.fixture(scope="module")
def old_python():
    """An interpreter with tests/requirements-old.txt."""
    try:
        made = subprocess.run(
            [ROOT / "scripts" / "venv", "tests/requirements-old.txt"], capture_output=True, text=True, timeout=600, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failed:
        pytest.skip(f"no environment with the older clients: {failed}")
    return made.stdout.strip()


def run(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_boto3_1_34(old_python, server, env, bucket):
    assert "fine" in run([old_python, str(PROGRAMS / "boto3_round.py"), server.endpoint, bucket, "path", "1.34."], env)


def test_minio_library(old_python, server, env, bucket):
    assert "fine" in run([old_python, str(PROGRAMS / "minio_round.py"), f"127.0.0.1:{server.port}", bucket], env)


def test_what_mint_does_with_the_minio_library(old_python, server, env, bucket_name):
    prefix = bucket_name[:50].rstrip("-")
    assert "fine" in run([old_python, str(PROGRAMS / "minio_mint.py"), f"127.0.0.1:{server.port}", prefix], env)


def test_s3cmd(old_python, server, env, bucket, tmp_path):
    config = tmp_path / "s3cfg"
    config.write_text(
        f"[default]\naccess_key = {ACCESS_KEY}\nsecret_key = {SECRET_KEY}\nhost_base = 127.0.0.1:{server.port}\n"
        f"host_bucket = 127.0.0.1:{server.port}\nuse_https = False\nmultipart_chunk_size_mb = 5\n"
    )
    s3cmd = [old_python, str(Path(old_python).with_name("s3cmd")), "-c", str(config), "--no-progress"]
    data = Content(9, 11 * 1024 * 1024).data()
    (tmp_path / "large").write_bytes(data)
    run([*s3cmd, "put", str(tmp_path / "large"), f"s3://{bucket}/a/large"], env)
    run([*s3cmd, "cp", f"s3://{bucket}/a/large", f"s3://{bucket}/b ü"], env)
    run([*s3cmd, "get", "--force", f"s3://{bucket}/b ü", str(tmp_path / "back")], env)
    assert (tmp_path / "back").read_bytes() == data
    assert f"s3://{bucket}/a/large" in run([*s3cmd, "ls", "-r", f"s3://{bucket}"], env)
    assert "MD5" in run([*s3cmd, "info", f"s3://{bucket}/a/large"], env)
    run([*s3cmd, "mv", f"s3://{bucket}/b ü", f"s3://{bucket}/c"], env)
    run([*s3cmd, "del", "-r", "--force", f"s3://{bucket}"], env)
    assert run([*s3cmd, "ls", "-r", f"s3://{bucket}"], env) == ""
