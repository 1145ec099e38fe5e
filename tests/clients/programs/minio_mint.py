"""Run by test_other_clients.py: what mint does with MinIO's client library, job by job. Arguments: address, a prefix of bucket names."""

from __future__ import annotations

import datetime
import io
import json
import os
import sys
import tempfile
import urllib.error
import urllib.request

import urllib3
from minio import Minio
from minio.commonconfig import COPY, ENABLED, GOVERNANCE, REPLACE, ComposeSource, CopySource, Filter, Tags
from minio.datatypes import PostPolicy
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from minio.objectlockconfig import DAYS, ObjectLockConfig
from minio.retention import Retention
from minio.sseconfig import Rule as SseRule
from minio.sseconfig import SSEConfig
from minio.versioningconfig import SUSPENDED, VersioningConfig

address, prefix = sys.argv[1:3]
client = Minio(address, os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], secure=False)
MIB = 1024 * 1024
UTC = datetime.timezone.utc
count = 0


def refused(call, *arguments, **named) -> str:
    try:
        answer = call(*arguments, **named)
        list(answer if hasattr(answer, "__next__") else ())
    except S3Error as error:
        return error.code
    raise AssertionError(f"{call} was not refused")


def put(bucket: str, key: str, data: bytes = b"x", **more):
    return client.put_object(bucket, key, io.BytesIO(data), len(data), **more)


def read(bucket: str, key: str, **more) -> bytes:
    answer = client.get_object(bucket, key, **more)
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()


def job(function):
    """Runs with a bucket of its own, which it leaves empty and which is removed."""
    global count
    count += 1
    bucket = f"{prefix}-{count}"
    client.make_bucket(bucket)
    function(bucket)
    doomed = [DeleteObject(o.object_name, o.version_id) for o in client.list_objects(bucket, recursive=True, include_version=True)]
    assert not list(client.remove_objects(bucket, doomed, bypass_governance_mode=True)), function
    client.remove_bucket(bucket)
    assert not client.bucket_exists(bucket)


@job
def buckets(bucket):
    assert bucket in [entry.name for entry in client.list_buckets()]
    for name in ("a", "a" * 64, "BadName", "bad_name", "192.168.1.1"):
        try:
            client.make_bucket(name)
            raise AssertionError(name)
        except (ValueError, S3Error):
            pass
    assert refused(client.list_objects, bucket + "-none") == "NoSuchBucket"
    other = f"{bucket}.with.dots"
    client.make_bucket(other, location="us-east-1")
    client.remove_bucket(other)
    assert refused(client.remove_bucket, other) == "NoSuchBucket"


@job
def files(bucket):
    with tempfile.TemporaryDirectory() as folder:
        for size in (1, MIB, 11 * MIB):
            path = os.path.join(folder, "up")
            with open(path, "wb") as file:
                file.write(os.urandom(size))
            client.fput_object(bucket, "file", path, metadata={"testing": "value", "X-Amz-Meta-2": "two"}, content_type="application/x")
            stat = client.stat_object(bucket, "file")
            assert (stat.size, stat.content_type, stat.metadata["x-amz-meta-testing"], stat.metadata["x-amz-meta-2"]) == (size, "application/x", "value", "two")
            down = os.path.join(folder, "down")
            client.fget_object(bucket, "file", down)
            assert open(down, "rb").read() == open(path, "rb").read()
            os.remove(down)


@job
def copies(bucket):
    put(bucket, "source", b"s" * 1024, metadata={"old": "1"})
    etag = client.stat_object(bucket, "source").etag
    client.copy_object(bucket, "copy", CopySource(bucket, "source"))
    client.copy_object(bucket, "copy", CopySource(bucket, "source"), metadata={"testing-int": 1, "a": "b"}, metadata_directive=REPLACE)
    assert client.stat_object(bucket, "copy").metadata["x-amz-meta-testing-int"] == "1"
    client.copy_object(bucket, "copy", CopySource(bucket, "source"), metadata_directive=COPY)
    client.copy_object(bucket, "copy", CopySource(bucket, "source", match_etag=etag))
    long_ago = datetime.datetime(2014, 4, 1, tzinfo=UTC)
    client.copy_object(bucket, "copy", CopySource(bucket, "source", modified_since=long_ago))
    for condition in ({"match_etag": "test-etag"}, {"not_match_etag": etag}, {"unmodified_since": long_ago}):
        assert refused(client.copy_object, bucket, "copy", CopySource(bucket, "source", **condition)) == "PreconditionFailed", condition
    assert read(bucket, "copy") == b"s" * 1024


@job
def composing(bucket):
    put(bucket, "one", b"1" * 5 * MIB)
    put(bucket, "two", b"2" * 7 * MIB)
    client.compose_object(bucket, "both", [ComposeSource(bucket, "one"), ComposeSource(bucket, "two", offset=10, length=5)])
    assert read(bucket, "both") == b"1" * 5 * MIB + b"2" * 5


@job
def odd_names(bucket):
    for key in ("/a/b/c", "a//b", "ü ö/ß+&%", "~tilde", "a=b;c,d", "(x)!*'"):
        put(bucket, key, key.encode())
        assert read(bucket, key) == key.encode()
    assert sorted(o.object_name for o in client.list_objects(bucket, recursive=True)) == sorted(["/a/b/c", "a//b", "ü ö/ß+&%", "~tilde", "a=b;c,d", "(x)!*'"])


@job
def ranges(bucket):
    data = os.urandom(MIB)
    put(bucket, "k", data)
    assert read(bucket, "k", offset=100, length=MIB - 200) == data[100:-100]
    assert read(bucket, "k", offset=100, length=1) == data[100:101]
    assert read(bucket, "k", offset=MIB - 5) == data[-5:]
    assert refused(client.get_object, bucket, "k", offset=MIB) == "InvalidRange"
    assert refused(client.get_object, bucket, "none") == "NoSuchKey"
    answer = client.get_object(bucket, "k", extra_query_params={"response-content-type": "text/x"})
    assert answer.headers["content-type"] == "text/x"
    answer.close()


@job
def listings(bucket):
    names = [f"{n:04d}" for n in range(105)]
    for name in names:
        put(bucket, f"dir/{name}")
    put(bucket, "top")
    for v1 in (False, True):
        assert sorted(o.object_name for o in client.list_objects(bucket, use_api_v1=v1)) == ["dir/", "top"]
        assert [o.object_name for o in client.list_objects(bucket, prefix="dir/", use_api_v1=v1)] == [f"dir/{name}" for name in names]
        assert len(list(client.list_objects(bucket, recursive=True, use_api_v1=v1, start_after="dir/0099"))) == 6
    # More than one page of a multi-delete's answers.
    assert not list(client.remove_objects(bucket, (DeleteObject(o.object_name) for o in client.list_objects(bucket, recursive=True))))


@job
def versions(bucket):
    client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    assert client.get_bucket_versioning(bucket).status == ENABLED
    first, second = put(bucket, "k", b"1").version_id, put(bucket, "k", b"22").version_id
    assert client.stat_object(bucket, "k", version_id=first).size == 1
    assert read(bucket, "k", version_id=first) == b"1"
    client.copy_object(bucket, "copy", CopySource(bucket, "k", version_id=first))
    assert read(bucket, "copy") == b"1"
    client.remove_object(bucket, "k", version_id=second)
    assert read(bucket, "k") == b"1"
    client.remove_object(bucket, "k")
    shown = [(o.object_name, o.is_delete_marker) for o in client.list_objects(bucket, prefix="k", include_version=True)]
    assert sorted(shown) == [("k", False), ("k", True)], shown
    client.set_bucket_versioning(bucket, VersioningConfig(SUSPENDED))


@job
def tags(bucket):
    wanted = Tags.new_object_tags()
    wanted["Project"], wanted["User"] = "Project One", "jsmith"
    put(bucket, "k", tags=wanted)
    assert dict(client.get_object_tags(bucket, "k")) == dict(wanted)
    client.delete_object_tags(bucket, "k")
    assert not client.get_object_tags(bucket, "k")
    client.set_object_tags(bucket, "k", wanted)
    of_bucket = Tags.new_bucket_tags()
    of_bucket["Project"] = "One"
    assert client.get_bucket_tags(bucket) is None
    client.set_bucket_tags(bucket, of_bucket)
    assert dict(client.get_bucket_tags(bucket)) == {"Project": "One"}
    client.delete_bucket_tags(bucket)


@job
def presigned(bucket):
    put(bucket, "k", b"hello")
    hour = datetime.timedelta(hours=1)
    url = client.presigned_get_object(bucket, "k", expires=hour, response_headers={"response-content-type": "application/json"})
    with urllib.request.urlopen(url) as answer:
        assert (answer.read(), answer.headers["content-type"]) == (b"hello", "application/json")
    url = client.presigned_put_object(bucket, "put", expires=hour)
    urllib.request.urlopen(urllib.request.Request(url, data=b"put", method="PUT"))
    assert read(bucket, "put") == b"put"
    head = urllib.request.Request(client.get_presigned_url("HEAD", bucket, "k", expires=hour), method="HEAD")
    with urllib.request.urlopen(head) as answer:
        assert answer.headers["content-length"] == "5"
    for days in (0, 8):
        try:
            client.presigned_get_object(bucket, "k", expires=datetime.timedelta(days=days))
            raise AssertionError(days)
        except ValueError:
            pass


@job
def forms(bucket):
    policy = PostPolicy(bucket, datetime.datetime.now(UTC) + datetime.timedelta(days=1))
    policy.add_starts_with_condition("$key", "my/")
    policy.add_content_length_range_condition(1, MIB)
    fields = client.presigned_post_policy(policy) | {"key": "my/upload"}
    pool = urllib3.PoolManager()
    reply = pool.request("POST", f"http://{address}/{bucket}", fields=[*fields.items(), ("file", ("f", b"data"))])
    assert reply.status == 204, reply.data
    assert read(bucket, "my/upload") == b"data"
    reply = pool.request("POST", f"http://{address}/{bucket}", fields=[*(fields | {"key": "other"}).items(), ("file", ("f", b"data"))])
    assert reply.status == 403, reply.data


@job
def policies(bucket):
    assert refused(client.get_bucket_policy, bucket) == "NoSuchBucketPolicy"
    own = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/none"}]}
    client.set_bucket_policy(bucket, json.dumps(own))
    assert json.loads(client.get_bucket_policy(bucket)) == own
    client.delete_bucket_policy(bucket)
    assert refused(client.set_bucket_policy, bucket, "{") == "MalformedPolicy"


@job
def settings(bucket):
    assert client.get_bucket_lifecycle(bucket) is None
    client.set_bucket_lifecycle(bucket, LifecycleConfig([Rule(ENABLED, rule_filter=Filter(prefix="logs/"), rule_id="rule", expiration=Expiration(days=365))]))
    assert client.get_bucket_lifecycle(bucket).rules[0].expiration.days == 365
    client.delete_bucket_lifecycle(bucket)
    client.set_bucket_encryption(bucket, SSEConfig(SseRule.new_sse_s3_rule()))
    assert client.get_bucket_encryption(bucket).rule.sse_algorithm == "AES256"
    client.delete_bucket_encryption(bucket)
    client.get_bucket_notification(bucket)
    client.delete_bucket_notification(bucket)
    assert client.get_bucket_replication(bucket) is None


def locks():
    bucket = f"{prefix}-lock"
    client.make_bucket(bucket, object_lock=True)
    client.set_object_lock_config(bucket, ObjectLockConfig(GOVERNANCE, 1, DAYS))
    kept = client.get_object_lock_config(bucket)
    assert (kept.duration, kept.duration_unit) == (1, DAYS)
    client.delete_object_lock_config(bucket)
    until = datetime.datetime.now(UTC).replace(microsecond=0) + datetime.timedelta(days=2)
    version = put(bucket, "k", retention=Retention(GOVERNANCE, until), legal_hold=True).version_id
    assert client.is_object_legal_hold_enabled(bucket, "k")
    client.disable_object_legal_hold(bucket, "k")
    assert not client.is_object_legal_hold_enabled(bucket, "k", version_id=version)
    kept = client.get_object_retention(bucket, "k")
    assert (kept.mode, kept.retain_until_date) == (GOVERNANCE, until)
    assert refused(client.remove_object, bucket, "k", version_id=version) == "AccessDenied"
    client.set_object_retention(bucket, "k", Retention(GOVERNANCE, until + datetime.timedelta(days=1)), version_id=version)
    errors = list(client.remove_objects(bucket, [DeleteObject("k", version)], bypass_governance_mode=True))
    assert not errors, errors
    client.remove_bucket(bucket)


locks()
nobody = Minio(address, secure=False)
assert refused(nobody.list_objects, f"{prefix}-1") in ("NoSuchBucket", "AccessDenied")
wrong = Minio(address, os.environ["AWS_ACCESS_KEY_ID"], "wrong", secure=False)
assert refused(wrong.list_buckets) == "SignatureDoesNotMatch"
print("fine")
