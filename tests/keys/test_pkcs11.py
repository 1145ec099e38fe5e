"""The root key in a PKCS#11 token: SoftHSM2 as Debian has it. Without it the test is skipped, and says so."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness import Server, boto3_client

MODULES = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
           "/usr/lib64/pkcs11/libsofthsm2.so"]  # fmt: skip
PIN = "pkcs11-pin-8472"


@pytest.fixture
def own(tmp_path):
    module = next((path for path in MODULES if Path(path).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM2 is not installed: apt-get install softhsm2")
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "granary", "--pin", PIN, "--so-pin", "so-pin-1"],
        check=True, capture_output=True, env=os.environ | {"SOFTHSM2_CONF": str(configuration)},
    )  # fmt: skip
    pin = tmp_path / "pin"
    pin.write_text(PIN + "\n")
    pin.chmod(0o600)
    env = {
        "SOFTHSM2_CONF": str(configuration),
        "GRANARY_KEYS_PROVIDER": "pkcs11",
        "GRANARY_KEYS_PKCS11_MODULE": module,
        "GRANARY_KEYS_PKCS11_PIN_FILE": str(pin),
        "GRANARY_KEYS_CACHE_MS": "0",
    }
    with Server(env=env, preset=None, drives=3, erasure="2+1") as server:
        yield server


def test_everything_goes_by_the_token(own, tmp_path):
    own.start()
    s3 = boto3_client(own.endpoint)
    s3.create_bucket(Bucket="bbb")
    written = {}
    for number, how in enumerate([{}, {"ServerSideEncryption": "aws:kms"}]):
        for size in (1000, 700_000):
            content = os.urandom(size)
            s3.put_object(Bucket="bbb", Key=f"{number}/{size}", Body=content, **how)
            written[f"{number}/{size}"] = content
    assert not (own.data / "root.key").exists()
    assert "PKCS#11 token granary" in own.cli("key", "status").stdout
    for end in (own.stop, own.kill):
        end()
        own.start()
        s3 = boto3_client(own.endpoint)
        for key, content in written.items():
            assert s3.get_object(Bucket="bbb", Key=key)["Body"].read() == content
    assert PIN not in own.log()
    # Another token of the same label has another key, and none is made for drives that are in use.
    own.stop()
    shutil.move(tmp_path / "tokens", tmp_path / "away")
    (tmp_path / "tokens").mkdir()
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "granary", "--pin", PIN, "--so-pin", "so-pin-1"],
        check=True, capture_output=True, env=os.environ | {"SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf")},
    )  # fmt: skip
    with pytest.raises(Exception, match="has no key"):
        own.start()
    shutil.rmtree(tmp_path / "tokens")
    shutil.move(tmp_path / "away", tmp_path / "tokens")
    own.start()
    assert boto3_client(own.endpoint).get_object(Bucket="bbb", Key="0/1000")["Body"].read() == written["0/1000"]
