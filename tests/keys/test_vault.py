"""The root key in Vault's Transit engine, with a stand-in for it (no Vault or OpenBao can be had where these tests run):
everything works, it goes away and what needs it is refused, it comes back and all is well by itself."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.exceptions import ClientError

from tests.harness import Server, boto3_client

TOKEN = "hvs.stand-in-token"
CACHE_MS = 300


class Transit:
    """`/v1/transit/{encrypt,decrypt}/granary` and the key's rotation, as Vault answers them."""

    def __init__(self) -> None:
        self.sealed: dict[str, tuple[int, str]] = {}
        self.version = 1
        self.min_version = 1
        self.is_sealed = False
        self.asked = 0
        transit = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = transit.answer(self.path, self.headers.get("X-Vault-Token"), request)
                body = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def answer(self, path: str, token: str | None, request: dict) -> tuple[int, dict | None]:
        self.asked += 1
        if self.is_sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if token != TOKEN:
            return 403, {"errors": ["permission denied"]}
        if path == "/v1/transit/encrypt/granary":
            base64.b64decode(request["plaintext"], validate=True)
            text = f"vault:v{self.version}:{base64.b64encode(os.urandom(60)).decode()}"
            self.sealed[text] = (self.version, request["plaintext"])
            return 200, {"data": {"ciphertext": text, "key_version": self.version}}
        if path == "/v1/transit/decrypt/granary":
            version, plain = self.sealed.get(request["ciphertext"], (0, ""))
            if version < self.min_version:
                return 400, {"errors": ["invalid ciphertext, or its version is disallowed by policy"]}
            return 200, {"data": {"plaintext": plain}}
        if path == "/v1/transit/keys/granary/rotate":
            self.version += 1
            return 200, {"data": {"latest_version": self.version}}
        if path == "/v1/transit/keys/granary/config":
            self.min_version = request["min_decryption_version"]
            return 204, None
        return 404, {"errors": []}


@pytest.fixture
def transit():
    made = Transit()
    yield made
    made.http.shutdown()


@pytest.fixture
def own(transit, tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    env = {
        "GRANARY_KEYS_PROVIDER": "vault",
        "GRANARY_KEYS_VAULT_URL": transit.url,
        "GRANARY_KEYS_VAULT_TOKEN_FILE": str(token),
        "GRANARY_KEYS_CACHE_MS": str(CACHE_MS),
    }
    with Server(env=env, preset=None, drives=3, erasure="2+1") as server:
        yield server.start()


def test_the_provider_goes_away_and_comes_back(own, transit):
    s3 = boto3_client(own.endpoint)
    s3.create_bucket(Bucket="bbb")
    small, large = os.urandom(1000), os.urandom(900_000)
    s3.put_object(Bucket="bbb", Key="small", Body=small)
    s3.put_object(Bucket="bbb", Key="large", Body=large, ServerSideEncryption="aws:kms")
    assert not (own.data / "root.key").exists()
    transit.is_sealed = True
    time.sleep(2 * CACHE_MS / 1000)  # what is in memory runs out
    for attempt in (
        lambda: s3.get_object(Bucket="bbb", Key="small"),
        lambda: s3.get_object(Bucket="bbb", Key="large"),
        lambda: s3.put_object(Bucket="bbb", Key="new", Body=b"x"),
        lambda: s3.create_bucket(Bucket="another"),
    ):
        with pytest.raises(ClientError) as caught:
            attempt()
        answer = caught.value.response
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 503, answer
        assert answer["Error"]["Code"] == "ServiceUnavailable"
        assert "key provider" in answer["Error"]["Message"] and "127.0.0.1" not in answer["Error"]["Message"]
    # What needs no key goes on.
    assert [o["Key"] for o in s3.list_objects_v2(Bucket="bbb")["Contents"]] == ["large", "small"]
    transit.is_sealed = False
    assert s3.get_object(Bucket="bbb", Key="small")["Body"].read() == small
    assert s3.get_object(Bucket="bbb", Key="large")["Body"].read() == large
    s3.put_object(Bucket="bbb", Key="new", Body=b"x")
    assert TOKEN not in own.log()


def test_a_start_without_the_provider_says_so(own, transit):
    s3 = boto3_client(own.endpoint)
    s3.create_bucket(Bucket="bbb")
    s3.put_object(Bucket="bbb", Key="k", Body=b"kept")
    own.stop()
    transit.is_sealed = True
    with pytest.raises(Exception, match="Vault"):
        own.start()
    transit.is_sealed = False
    own.start()
    assert boto3_client(own.endpoint).get_object(Bucket="bbb", Key="k")["Body"].read() == b"kept"


def test_rotation_in_the_service(own, transit):
    s3 = boto3_client(own.endpoint)
    s3.create_bucket(Bucket="bbb")
    s3.put_object(Bucket="bbb", Key="k", Body=b"kept")
    rotated = own.cli("key", "rotate")
    assert rotated.returncode == 0, rotated.stderr
    assert (transit.version, transit.min_version) == (2, 2)
    own.restart()
    assert boto3_client(own.endpoint).get_object(Bucket="bbb", Key="k")["Body"].read() == b"kept"
