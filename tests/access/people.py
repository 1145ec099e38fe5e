"""Users of the tests: made by the command line, as a person would, and spoken for by boto3."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from pathlib import Path

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.harness import Server

REGION = "us-east-1"
_numbers = itertools.count()


def name(word: str) -> str:
    return f"{word}-{os.getpid()}-{next(_numbers)}"


def granary(server: Server, *arguments: str) -> dict:
    """Runs the command with --json and returns what it says."""
    done = server.cli(*arguments, "--json")
    assert done.returncode == 0, f"granary {' '.join(arguments)}: {done.stderr}"
    return json.loads(done.stdout)


def client(server: Server, key: dict | None, service: str = "s3", **config):
    """A client with a key pair as `granary key create --json` or STS tell it; None: anonymous."""
    session = boto3.session.Session()
    signing = {"signature_version": UNSIGNED} if key is None else {}
    pair = key or {}
    return session.client(
        service,
        endpoint_url=server.endpoint,
        aws_access_key_id=pair.get("access_key") or pair.get("AccessKeyId"),
        aws_secret_access_key=pair.get("secret_key") or pair.get("SecretAccessKey"),
        aws_session_token=pair.get("SessionToken"),
        region_name=REGION,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, **signing, **config),
    )


def user(server: Server, *policies: str, account: str | None = None) -> tuple[str, dict]:
    """A user with policies, and its key."""
    who = name("user")
    granary(server, "user", "create", who, *(["--account", account] if account else []))
    for policy in policies:
        granary(server, "policy", "attach", policy, "--user", who)
    return who, granary(server, "key", "create", "--user", who)


def put_policy(server: Server, policy_name: str, *statements: dict) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.json"
        path.write_text(json.dumps({"Version": "2012-10-17", "Statement": list(statements)}))
        granary(server, "policy", "put", policy_name, "--file", str(path))
    return policy_name


def allow(action, resource="*", **more) -> dict:
    return {"Effect": "Allow", "Action": action, "Resource": resource} | more


def deny(action, resource="*", **more) -> dict:
    return {"Effect": "Deny", "Action": action, "Resource": resource} | more


def refused(call) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]
