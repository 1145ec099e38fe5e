"""Command-line clients as people use them: AWS CLI, s5cmd, rclone, s3cmd, curl. Each does its main job; the bytes are compared."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.harness import ACCESS_KEY, REGION, SECRET_KEY, Content

MIB = 1024 * 1024
FILES = {"a.txt": 11, "empty": 0, "sub/b.bin": 70_000, "sub/deep er/c+d.bin": 300_000, "sub/ü.bin": 20_000, "big.bin": 21 * MIB + 5}


def tool(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed here")
    return found


def run(line: list[str], env: dict[str, str], **more) -> str:
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == 0, f"{' '.join(line)}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def digests(root: Path) -> dict[str, str]:
    found = (p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def store_digests(s3, bucket: str, prefix: str = "") -> dict[str, str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [o["Key"] for page in pages for o in page.get("Contents", [])]
    read = lambda key: s3.get_object(Bucket=bucket, Key=key)["Body"].read()  # noqa: E731
    return {key[len(prefix) :]: hashlib.sha256(read(key)).hexdigest() for key in keys}


@pytest.fixture
def tree(tmp_path) -> Path:
    root = tmp_path / "tree"
    for number, (name, size) in enumerate(FILES.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Content(number, size).data())
    return root


def test_aws_cli(env, s3, bucket_name, tree, tmp_path):
    aws = tool("aws")
    bucket = f"s3://{bucket_name}"
    run([aws, "s3", "mb", bucket], env)
    run([aws, "s3", "sync", str(tree), f"{bucket}/p/"], env)
    assert store_digests(s3, bucket_name, "p/") == digests(tree)
    listing = run([aws, "s3", "ls", "--recursive", f"{bucket}/p/"], env)
    assert len(listing.splitlines()) == len(FILES) and f"{FILES['big.bin']} p/big.bin" in listing
    assert "PRE sub/" in run([aws, "s3", "ls", f"{bucket}/p/"], env)
    assert run([aws, "s3", "sync", str(tree), f"{bucket}/p/"], env).strip() == "", "a second sync had work to do"
    back = tmp_path / "back"
    run([aws, "s3", "cp", "--recursive", f"{bucket}/p/", str(back)], env)
    assert digests(back) == digests(tree)
    run([aws, "s3", "mv", f"{bucket}/p/big.bin", f"{bucket}/q/moved.bin"], env)
    assert store_digests(s3, bucket_name, "q/") == {"moved.bin": digests(tree)["big.bin"]}
    (tree / "a.txt").unlink()
    run([aws, "s3", "sync", "--delete", str(tree), f"{bucket}/p/"], env)
    assert store_digests(s3, bucket_name, "p/") == digests(tree)
    etag = run([aws, "s3api", "head-object", "--bucket", bucket_name, "--key", "q/moved.bin", "--query", "ETag"], env)
    assert etag.strip().strip('"').strip("\\").strip('"')
    run([aws, "s3", "rb", "--force", bucket], env)
    assert bucket_name not in [b["Name"] for b in s3.list_buckets()["Buckets"]]


def test_aws_cli_stream(env, s3, bucket):
    """From stdin and to stdout, larger than one part."""
    aws = tool("aws")
    data = Content(77, 18 * MIB + 1).data()
    up = subprocess.run([aws, "s3", "cp", "-", f"s3://{bucket}/k"], env=env, input=data, capture_output=True, timeout=300)
    assert up.returncode == 0, up.stderr
    down = subprocess.run([aws, "s3", "cp", f"s3://{bucket}/k", "-"], env=env, capture_output=True, timeout=300)
    assert down.returncode == 0 and down.stdout == data, down.stderr


def test_s5cmd(env, s3, bucket_name, tree, tmp_path):
    s5cmd = tool("s5cmd")
    bucket = f"s3://{bucket_name}"
    run([s5cmd, "mb", bucket], env)
    run([s5cmd, "cp", f"{tree}/", f"{bucket}/p/"], env)
    assert store_digests(s3, bucket_name, "p/") == digests(tree)
    listing = run([s5cmd, "ls", f"{bucket}/p/*"], env)
    assert len(listing.splitlines()) == len(FILES)
    back = tmp_path / "back"
    run([s5cmd, "cp", f"{bucket}/p/*", f"{back}/"], env)
    assert digests(back) == digests(tree)
    done = subprocess.run([s5cmd, "cat", f"{bucket}/p/big.bin"], env=env, capture_output=True, timeout=300)
    assert hashlib.sha256(done.stdout).hexdigest() == digests(tree)["big.bin"]
    run([s5cmd, "cp", f"{bucket}/p/sub/b.bin", f"{bucket}/copy.bin"], env)
    assert store_digests(s3, bucket_name, "copy") == {".bin": digests(tree)["sub/b.bin"]}
    (tree / "a.txt").unlink()
    run([s5cmd, "sync", "--delete", f"{tree}/", f"{bucket}/p/"], env)
    assert store_digests(s3, bucket_name, "p/") == digests(tree)
    assert "bytes in" in run([s5cmd, "du", f"{bucket}/*"], env)
    run([s5cmd, "rm", f"{bucket}/*"], env)
    assert store_digests(s3, bucket_name) == {}
    run([s5cmd, "rb", bucket], env)


def rclone_settings(server) -> dict[str, str]:
    """A remote `g:`, told by the environment alone."""
    return {
        "RCLONE_CONFIG": os.devnull, "RCLONE_CONFIG_G_TYPE": "s3", "RCLONE_CONFIG_G_PROVIDER": "Other",
        "RCLONE_CONFIG_G_ACCESS_KEY_ID": ACCESS_KEY, "RCLONE_CONFIG_G_SECRET_ACCESS_KEY": SECRET_KEY,
        "RCLONE_CONFIG_G_ENDPOINT": server.endpoint, "RCLONE_CONFIG_G_REGION": REGION, "RCLONE_RETRIES": "1",
        "RCLONE_CONFIG_G_UPLOAD_CUTOFF": "8Mi", "RCLONE_CONFIG_G_CHUNK_SIZE": "5Mi",
    }  # fmt: skip


def test_rclone(env, server, s3, bucket_name, tree, tmp_path):
    rclone = tool("rclone")
    env = env | rclone_settings(server)
    run([rclone, "mkdir", f"g:{bucket_name}"], env)
    run([rclone, "mkdir", f"g:{bucket_name}"], env)
    run([rclone, "sync", str(tree), f"g:{bucket_name}/p"], env)
    assert store_digests(s3, bucket_name, "p/") == digests(tree)
    run([rclone, "check", "--download", str(tree), f"g:{bucket_name}/p"], env)
    run([rclone, "check", str(tree), f"g:{bucket_name}/p"], env)
    assert len(run([rclone, "lsf", "-R", "--files-only", f"g:{bucket_name}/p"], env).splitlines()) == len(FILES)
    back = tmp_path / "back"
    run([rclone, "copy", f"g:{bucket_name}/p", str(back)], env)
    assert digests(back) == digests(tree)
    run([rclone, "copyto", f"g:{bucket_name}/p/big.bin", f"g:{bucket_name}/q/big.bin"], env)
    run([rclone, "moveto", f"g:{bucket_name}/q/big.bin", f"g:{bucket_name}/q/moved.bin"], env)
    assert store_digests(s3, bucket_name, "q/") == {"moved.bin": digests(tree)["big.bin"]}
    done = subprocess.run(
        [rclone, "cat", "--offset", "1000", "--count", "50", f"g:{bucket_name}/p/sub/b.bin"], env=env, capture_output=True
    )
    assert done.stdout == (tree / "sub/b.bin").read_bytes()[1000:1050]
    run([rclone, "purge", f"g:{bucket_name}"], env)
    assert bucket_name not in [b["Name"] for b in s3.list_buckets()["Buckets"]]


@pytest.fixture
def mounted(env, server, bucket, tmp_path):
    """The bucket as a folder, through rclone and FUSE; skips where FUSE is not there or may not be used."""
    rclone = tool("rclone")
    if not Path("/dev/fuse").exists() or not (shutil.which("fusermount3") or shutil.which("fusermount")):
        pytest.skip("no FUSE here: /dev/fuse and fusermount3 (Debian: apt-get install fuse3) are wanted")
    folder = tmp_path / "mnt"
    folder.mkdir()
    line = [rclone, "mount", f"g:{bucket}", str(folder), "--vfs-cache-mode", "writes", "--vfs-write-back", "0s", "--dir-cache-time", "0s",
            "--cache-dir", str(tmp_path / "cache")]  # fmt: skip
    with (tmp_path / "rclone.log").open("wb") as log:
        process = subprocess.Popen(line, env=env | rclone_settings(server), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not os.path.ismount(folder):
            said = (tmp_path / "rclone.log").read_text()
            if process.poll() is not None and ("permission denied" in said.lower() or "not permitted" in said.lower()):
                pytest.skip(f"FUSE may not be used here: {said.strip()[-200:]}")
            assert process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.05)
        yield folder
    finally:
        process.terminate()  # it unmounts by itself
        process.wait(60)


def test_rclone_mount(mounted, s3, bucket, tree):
    """Files copied in are objects at once; objects are files; parts of them are read by range."""
    for name in FILES:
        target = mounted / "p" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree / name, target)
    deadline = time.monotonic() + 120  # rclone uploads after the close
    while store_digests(s3, bucket, "p/") != digests(tree):
        assert time.monotonic() < deadline, store_digests(s3, bucket, "p/")
        time.sleep(0.2)
    assert digests(mounted / "p") == digests(tree)
    with (mounted / "p" / "big.bin").open("rb") as file:
        file.seek(9 * MIB - 7)
        assert file.read(MIB) == (tree / "big.bin").read_bytes()[9 * MIB - 7 : 10 * MIB - 7]
    s3.put_object(Bucket=bucket, Key="from/outside", Body=b"seen")
    assert (mounted / "from" / "outside").read_bytes() == b"seen"
    (mounted / "p" / "a.txt").rename(mounted / "moved.txt")
    (mounted / "p" / "empty").unlink()
    assert s3.get_object(Bucket=bucket, Key="moved.txt")["Body"].read() == (tree / "a.txt").read_bytes()
    assert not {"a.txt", "empty"} & store_digests(s3, bucket, "p/").keys()


def test_s3cmd(env, server, s3, bucket_name, tree, tmp_path):
    s3cmd = tool("s3cmd")
    address = server.endpoint.removeprefix("http://")
    config = tmp_path / "s3cfg"
    config.write_text(
        f"[default]\naccess_key = {ACCESS_KEY}\nsecret_key = {SECRET_KEY}\nhost_base = {address}\nhost_bucket = {address}\n"
        f"use_https = False\nmultipart_chunk_size_mb = 5\nbucket_location = {REGION}\n"
    )
    line = [s3cmd, "-c", str(config), "--no-progress"]
    bucket = f"s3://{bucket_name}"
    run([*line, "mb", bucket], env)
    run([*line, "sync", f"{tree}/", f"{bucket}/p/"], env)
    assert store_digests(s3, bucket_name, "p/") == digests(tree)
    assert len(run([*line, "ls", "-r", f"{bucket}/p/"], env).splitlines()) == len(FILES)
    back = tmp_path / "back"
    back.mkdir()
    run([*line, "get", "-r", f"{bucket}/p/", f"{back}/"], env)
    assert digests(back) == digests(tree)
    run([*line, "cp", f"{bucket}/p/a.txt", f"{bucket}/copy.txt"], env)
    assert str(FILES["a.txt"]) in run([*line, "info", f"{bucket}/copy.txt"], env)
    url = run([*line, "signurl", f"{bucket}/copy.txt", "+300"], env).strip()
    assert run([tool("curl"), "-sf", url], env).encode() == (tree / "a.txt").read_bytes()
    run([*line, "del", "-r", "--force", f"{bucket}/"], env)
    run([*line, "rb", bucket], env)


def test_curl(env, server, s3, bucket, tmp_path):
    """curl signs SigV4 by itself; large bodies wait for `100 Continue`."""
    curl = tool("curl")
    source, target = tmp_path / "from", tmp_path / "to"
    source.write_bytes(Content(5, 2 * MIB).data())
    line = [curl, "-sSf", "--aws-sigv4", f"aws:amz:{REGION}:s3", "--user", f"{ACCESS_KEY}:{SECRET_KEY}"]
    url = f"{server.endpoint}/{bucket}/k"
    run([*line, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-H", "Expect: 100-continue", "-T", str(source), url], env)
    run([*line, "-o", str(target), url], env)
    assert target.read_bytes() == source.read_bytes()
    run([*line, "-o", str(target), "-r", "100-199", url], env)
    assert target.read_bytes() == source.read_bytes()[100:200]
