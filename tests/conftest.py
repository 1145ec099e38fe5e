"""Fixtures of the end-to-end tests: a server per worker process, a bucket per test.

Run one: `pytest tests/clients/test_boto3_core.py -k range`. The binary is $GRANARY_BIN, else the newest build.
"""

from __future__ import annotations

import itertools
import os
import re
import uuid

import pytest

from tests.harness import RawClient, Server, boto3_client, client_env

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server():
    """One server for a worker's whole session; tests that hurt their server start their own."""
    with Server() as running:
        running.start()
        yield running
        assert running.running(), f"the server went away by itself during the tests\n{running.log_tail()}"
        code = running.stop()
        assert code == 0, f"SIGTERM ended the server with {code}\n{running.log_tail()}"


@pytest.fixture
def s3(server):
    return boto3_client(server.endpoint)


@pytest.fixture
def env(server):
    return client_env(server.endpoint)


@pytest.fixture
def raw(server):
    client = RawClient("127.0.0.1", server.port)
    yield client
    client.close()


@pytest.fixture
def bucket_name(request):
    word = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")
    return f"{word}-{os.getpid()}-{next(_numbers)}-{uuid.uuid4().hex[:6]}"[:63]


@pytest.fixture
def bucket(s3, bucket_name):
    s3.create_bucket(Bucket=bucket_name)
    return bucket_name


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the tail of the server's log beside its own traceback."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        running = item.funcargs.get("server")
        if running is not None:
            report.sections.append(("granary", running.log_tail(40)))
