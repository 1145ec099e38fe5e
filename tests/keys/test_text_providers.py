"""Root keys that are handed to the process: in the environment, and as a systemd credential. What is there opens the drives, what is
wrong or missing is told in words that show none of it, and no copy of it is left on the drives or in the log."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import pytest

from tests.harness import Server, boto3_client
from tests.harness.server import ServerFailed, find_binary

BODY = b"what only the root key opens" * 5_000


def new_root_key(folder: Path, name: str) -> str:
    """The text of a root key, made as the documentation says."""
    file = folder / name
    made = subprocess.run([str(find_binary()), "key", "new-root", str(file)], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    return file.read_text()


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return new_root_key(tmp_path_factory.mktemp("root"), "root.key")


@pytest.fixture(scope="module")
def other_text(tmp_path_factory) -> str:
    return new_root_key(tmp_path_factory.mktemp("other"), "root.key")


def by_environment(text: str, folder: Path) -> dict[str, str]:
    return {"GRANARY_KEYS_PROVIDER": "environment", "GRANARY_ROOT_KEY": text}


def by_credential(text: str, folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "granary-root-key").write_text(text)
    (folder / "granary-root-key").chmod(0o400)
    return {"GRANARY_KEYS_PROVIDER": "credential", "CREDENTIALS_DIRECTORY": str(folder)}


def secrets_in(text: str) -> list[str]:
    """The secret words of a root key text: whatever decodes to 32 bytes, and its forms."""
    found = []
    for word in text.replace("=", "= ").split():
        try:
            raw = base64.b64decode(word + "=" * (-len(word) % 4), validate=True)
        except ValueError:
            continue
        if len(raw) == 32:
            found += [word.rstrip("="), raw.hex()]
    assert found, "the text of a root key has a key in it"
    return found


@pytest.mark.parametrize("way", [by_environment, by_credential])
def test_what_was_written_is_read_after_a_restart_with_the_same_key_only(way, text, other_text, tmp_path):
    with Server(env=way(text, tmp_path / "credentials"), preset=None) as server:
        server.start()
        s3 = boto3_client(server.endpoint)
        s3.create_bucket(Bucket="held")
        s3.put_object(Bucket="held", Key="k", Body=BODY)
        status = server.cli("status", "--json").stdout
        assert ("environment variable GRANARY_ROOT_KEY" in status) == (way is by_environment)
        assert ("systemd credential granary-root-key" in status) == (way is by_credential)
        # Neither the node nor its folders keep a copy.
        assert not (server.data / "root.key").exists()
        server.kill()
        server.start()
        assert boto3_client(server.endpoint).get_object(Bucket="held", Key="k")["Body"].read() == BODY
        # Bucket keys rotate; the root key is whoever's hands it over.
        assert server.cli("key", "rotate", "--bucket", "held").returncode == 0
        refused = server.cli("key", "rotate")
        assert refused.returncode == 1 and refused.stderr.strip()
        server.stop()
        for secret in secrets_in(text):
            assert secret not in server.log()
            for path in server.data.rglob("*"):
                if path.is_file() and path.stat().st_size < 1 << 20:
                    assert secret.encode() not in path.read_bytes(), path

        # Another key opens nothing, and nothing is damaged by trying.
        server.env |= way(other_text, tmp_path / "others")
        with pytest.raises(ServerFailed) as failed:
            server.start()
        assert "key" in str(failed.value)
        for secret in secrets_in(text) + secrets_in(other_text):
            assert secret not in server.log()
        server.env |= way(text, tmp_path / "credentials")
        server.start()
        assert boto3_client(server.endpoint).get_object(Bucket="held", Key="k")["Body"].read() == BODY


def start_fails(env: dict[str, str]) -> str:
    with Server(env=env, preset=None) as server:
        with pytest.raises(ServerFailed):
            server.start()
        return server.log()


@pytest.mark.parametrize("wrong", ["", "nonsense", "granary root key v1\n", "x" * 100_000])
def test_what_is_no_root_key_is_told_without_showing_it(wrong, tmp_path):
    marked = wrong + "HUSH" if wrong else wrong
    said = start_fails({"GRANARY_KEYS_PROVIDER": "environment", "GRANARY_ROOT_KEY": marked})
    assert "sealing key" in said and "GRANARY_ROOT_KEY" in said and "HUSH" not in said, said[-500:]
    said = start_fails(by_credential(marked, tmp_path / "credentials"))
    assert "sealing key" in said and "credential" in said and "HUSH" not in said, said[-500:]


def test_a_missing_variable_or_credential_says_what_to_do(tmp_path):
    said = start_fails({"GRANARY_KEYS_PROVIDER": "environment"})
    assert "GRANARY_ROOT_KEY is not set" in said
    if "CREDENTIALS_DIRECTORY" not in os.environ:
        said = start_fails({"GRANARY_KEYS_PROVIDER": "credential"})
        assert "LoadCredential" in said
    (tmp_path / "empty").mkdir()
    said = start_fails({"GRANARY_KEYS_PROVIDER": "credential", "CREDENTIALS_DIRECTORY": str(tmp_path / "empty")})
    assert str(tmp_path / "empty" / "granary-root-key") in said
    named = by_credential("nonsense", tmp_path / "named") | {"GRANARY_KEYS_CREDENTIAL": "another-name"}
    assert "another-name" in start_fails(named)
