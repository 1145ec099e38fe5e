"""Bucket logging: S3's document, and lines in S3's format that arrive as objects."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest

from tests.harness import Server, boto3_client

from .test_boto3_core import error

LINE = re.compile(
    r'^(?P<owner>\S+) (?P<bucket>\S+) \[(?P<time>\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000)\] (?P<ip>\S+) (?P<requester>\S+) '
    r'(?P<id>\S+) (?P<operation>\S+) (?P<key>\S+) "(?P<request>[^"]*)" (?P<status>\d+) (?P<error>\S+) (?P<sent>\S+) '
    r'(?P<size>\S+) (?P<total>\d+) (?P<turnaround>\S+) "(?P<referer>[^"]*)" "(?P<agent>[^"]*)" (?P<version>\S+) '
    r'(?P<host_id>\S+) (?P<sigv>\S+) (?P<cipher>\S+) (?P<auth>\S+) (?P<host>\S+) (?P<tls>\S+) (?P<arn>\S+) (?P<acl>\S+)$'
)  # fmt: skip


@pytest.fixture(scope="module")
def server():
    with Server(env={"GRANARY_S3_ACCESS_LOG_INTERVAL_MS": "300"}) as running:
        running.start()
        yield running


@pytest.fixture
def target(s3, bucket_name):
    name = f"t-{bucket_name}"[:63].rstrip("-")
    s3.create_bucket(Bucket=name)
    return name


def enable(s3, bucket, target, prefix="logs/", **more):
    enabled = {"TargetBucket": target, "TargetPrefix": prefix, **more}
    s3.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={"LoggingEnabled": enabled})
    return enabled


def lines(s3, target, wanted, prefix=""):
    """All lines so far, once `wanted` holds of them."""
    deadline = time.monotonic() + 60
    while True:
        found, keys = [], []
        for o in s3.list_objects_v2(Bucket=target, Prefix=prefix).get("Contents", []):
            keys.append(o["Key"])
            text = s3.get_object(Bucket=target, Key=o["Key"])["Body"].read().decode()
            assert text.endswith("\n")
            for line in text.splitlines():
                match = LINE.match(line)
                assert match, line
                found.append(match.groupdict())
        if wanted(found):
            return found, keys
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_document_round_trip(s3, bucket, target):
    get = lambda: s3.get_bucket_logging(Bucket=bucket).get("LoggingEnabled")  # noqa: E731
    assert get() is None
    for more in (
        {},
        {"TargetObjectKeyFormat": {"SimplePrefix": {}}},
        {"TargetObjectKeyFormat": {"PartitionedPrefix": {"PartitionDateSource": "EventTime"}}},
        {"TargetObjectKeyFormat": {"PartitionedPrefix": {"PartitionDateSource": "DeliveryTime"}}},
    ):
        enabled = enable(s3, bucket, target, **more)
        assert get() == enabled
    s3.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={})
    assert get() is None
    assert error(lambda: enable(s3, bucket, "no-such-bucket-at-all")) == (400, "InvalidTargetBucketForLogging")
    assert error(lambda: enable(s3, "no-such-bucket-at-all", target)) == (404, "NoSuchBucket")


def test_lines(s3, server, bucket, target):
    enable(s3, bucket, target)
    s3.put_object(Bucket=bucket, Key="a b/ü", Body=b"x" * 1234)
    s3.get_object(Bucket=bucket, Key="a b/ü", Range="bytes=0-99")["Body"].read()
    s3.head_object(Bucket=bucket, Key="a b/ü")
    assert error(lambda: s3.get_object(Bucket=bucket, Key="missing")) == (404, "NoSuchKey")
    s3.list_objects_v2(Bucket=bucket)
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "a b/ü"})
    s3.delete_object(Bucket=bucket, Key="copy")
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "a b/ü"})
    request = urllib.request.Request(url, headers={"User-Agent": 'forged" 200 -', "Referer": "http://from/here"})
    assert len(urllib.request.urlopen(request).read()) == 1234
    found, keys = lines(s3, target, lambda found: len(found) >= 8, "logs/")
    assert all(re.fullmatch(r"logs/\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d-[0-9A-F]{16}", key) for key in keys)
    of = {line["operation"]: line for line in found}
    put = of["REST.PUT.OBJECT"]
    assert put["bucket"] == bucket and put["key"] == "a%20b/%C3%BC" and put["status"] == "200" and put["size"] == "1234"
    assert put["ip"] == "127.0.0.1" and put["requester"] == put["owner"] and put["sigv"] == "SigV4"
    assert put["auth"] == "AuthHeader" and "Boto3" in put["agent"] and put["error"] == "-" and put["tls"] == "-"
    gets = [line for line in found if line["operation"] == "REST.GET.OBJECT"]
    part = next(line for line in gets if line["status"] == "206")
    assert (part["sent"], part["size"]) == ("100", "1234")
    missing = next(line for line in gets if line["status"] == "404")
    assert (missing["error"], missing["key"]) == ("NoSuchKey", "missing")
    signed = next(line for line in gets if line["auth"] == "QueryString")
    assert signed["referer"] == "http://from/here" and signed["agent"] == "forged_ 200 -"
    assert "REDACTED" in signed["request"] and url.split("Signature=")[1][:20] not in signed["request"]
    assert {"REST.HEAD.OBJECT", "REST.GET.BUCKET", "REST.COPY.OBJECT", "REST.DELETE.OBJECT"} <= set(of)
    ids = {line["id"] for line in found}
    assert len(ids) == len(found)


def test_partitioned_keys_and_switching_off(s3, bucket, target):
    enable(s3, bucket, target, "p/", TargetObjectKeyFormat={"PartitionedPrefix": {"PartitionDateSource": "EventTime"}})
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    found, keys = lines(s3, target, lambda found: any(line["operation"] == "REST.PUT.OBJECT" for line in found), "p/")
    owner = found[0]["owner"]
    assert all(re.fullmatch(rf"p/{owner}/us-east-1/{bucket}/\d{{4}}/\d\d/\d\d/\d{{4}}-\d\d-\d\d-00-00-00-[0-9A-F]{{16}}", k) for k in keys)
    s3.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={})
    s3.put_object(Bucket=bucket, Key="unlogged", Body=b"x")
    enable(s3, bucket, target, "later/")
    s3.put_object(Bucket=bucket, Key="logged", Body=b"x")
    found, _ = lines(s3, target, lambda found: any(line["key"] == "logged" for line in found), "later/")
    assert not any(line["key"] == "unlogged" for line in found)


def test_a_shutdown_delivers_what_waits():
    with Server(env={"GRANARY_S3_ACCESS_LOG_INTERVAL_MS": "86400000"}) as server:
        server.start()
        s3 = boto3_client(server.endpoint)
        for name in ("logged", "log-target"):
            s3.create_bucket(Bucket=name)
        enable(s3, "logged", "log-target")
        s3.put_object(Bucket="logged", Key="k", Body=b"x")
        assert server.stop() == 0
        server.start()
        found, _ = lines(s3, "log-target", lambda found: len(found) >= 1)
        assert any(line["key"] == "k" for line in found)
