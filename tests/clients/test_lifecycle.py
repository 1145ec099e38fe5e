"""Lifecycle from the outside: S3's document and its mistakes, and a server whose day has two seconds.

What expires is waited for, and what must stay is looked at only behind something younger that has gone: no assertion
rests on how fast the machine is.
"""

from __future__ import annotations

import datetime
import re
import time

import pytest

from tests.harness import Server, boto3_client

from .test_boto3_core import error

DAY_SECONDS = 2
PATIENCE_SECONDS = 90


@pytest.fixture(scope="module")
def short_days():
    with Server(env={"GRANARY_STORE_LIFECYCLE_DAY_SECONDS": str(DAY_SECONDS)}) as running:
        running.start()
        yield running


@pytest.fixture
def days(short_days):
    return boto3_client(short_days.endpoint)


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)


def keys(s3, bucket, prefix=""):
    return [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]


def versions(s3, bucket, prefix=""):
    page = s3.list_object_versions(Bucket=bucket, Prefix=prefix)
    return page.get("Versions", []), page.get("DeleteMarkers", [])


def put_rules(s3, bucket, *rules):
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)})


def rule(name="r", prefix="", **actions):
    return {"ID": name, "Status": "Enabled", "Filter": {"Prefix": prefix}, **actions}


# --- the document ------------------------------------------------------------------------------------------------


def test_document_round_trip(s3, bucket):
    assert error(lambda: s3.get_bucket_lifecycle_configuration(Bucket=bucket)) == (404, "NoSuchLifecycleConfiguration")
    rules = [
        rule("days", "logs/", Expiration={"Days": 3}),
        rule("date", "old/", Expiration={"Date": datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)}),
        rule("marker", "m/", Expiration={"ExpiredObjectDeleteMarker": True}, AbortIncompleteMultipartUpload={"DaysAfterInitiation": 7}),
        rule("noncurrent", "n/", NoncurrentVersionExpiration={"NoncurrentDays": 2, "NewerNoncurrentVersions": 5}),
        rule("move", "t/", Transitions=[{"Days": 30, "StorageClass": "STANDARD_IA"}, {"Days": 60, "StorageClass": "ONEZONE_IA"}]),
        {"ID": "legacy", "Status": "Disabled", "Prefix": "l/", "Expiration": {"Days": 1}},
        {"ID": "all", "Status": "Enabled", "Filter": {}, "Expiration": {"Days": 1000}},
        {"ID": "tag", "Status": "Enabled", "Filter": {"Tag": {"Key": "k", "Value": "v"}}, "Expiration": {"Days": 1}},
        {"ID": "and", "Status": "Enabled", "Expiration": {"Days": 1}, "Filter": {"And": {
            "Prefix": "p/", "Tags": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}],
            "ObjectSizeGreaterThan": 10, "ObjectSizeLessThan": 20}}},
    ]  # fmt: skip
    put_rules(s3, bucket, *rules)
    answer = s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    assert answer["Rules"] == rules
    assert answer["TransitionDefaultMinimumObjectSize"] == "all_storage_classes_128K"
    s3.delete_bucket_lifecycle(Bucket=bucket)
    assert error(lambda: s3.get_bucket_lifecycle_configuration(Bucket=bucket)) == (404, "NoSuchLifecycleConfiguration")
    assert s3.delete_bucket_lifecycle(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_names_are_made(s3, bucket):
    expires = {"Status": "Enabled", "Expiration": {"Days": 1}}
    put_rules(s3, bucket, {**expires, "Prefix": "a/"}, {**expires, "Prefix": "b/"})
    names = [r["ID"] for r in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]]
    assert all(names) and names[0] != names[1]


@pytest.mark.parametrize(
    "code, rules",
    [
        ("InvalidArgument", [rule("x" * 256, Expiration={"Days": 1})]),
        ("InvalidArgument", [rule("a", Expiration={"Days": 1}), rule("a", "b", Expiration={"Days": 1})]),
        ("MalformedXML", [{**rule(Expiration={"Days": 1}), "Status": "enabled"}]),
        ("MalformedXML", [{"ID": "r", "Status": "Enabled", "Expiration": {"Days": 1}}]),
        ("MalformedXML", [{**rule(Expiration={"Days": 1}), "Prefix": "both"}]),
        ("MalformedXML", []),
        ("InvalidArgument", [rule(Expiration={"Days": 0})]),
        ("InvalidArgument", [rule(Expiration={"Date": datetime.datetime(2030, 1, 1, 1, tzinfo=datetime.timezone.utc)})]),
        ("MalformedXML", [rule(Expiration={"Days": 1, "ExpiredObjectDeleteMarker": True})]),
        ("InvalidRequest", [rule()]),
        ("InvalidRequest", [{**rule(Expiration={"ExpiredObjectDeleteMarker": True}), "Filter": {"Tag": {"Key": "k", "Value": "v"}}}]),
        ("InvalidRequest", [{**rule(AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1}), "Filter": {"Tag": {"Key": "k", "Value": "v"}}}]),
        ("InvalidArgument", [rule(NoncurrentVersionExpiration={"NoncurrentDays": 0})]),
        ("InvalidStorageClass", [rule(Transitions=[{"Days": 1, "StorageClass": "GLACIER"}])]),
        ("InvalidArgument", [rule(Transitions=[{"Days": 29, "StorageClass": "STANDARD_IA"}])]),
        ("InvalidArgument", [rule(Expiration={"Days": 3}, Transitions=[{"Days": 3, "StorageClass": "INTELLIGENT_TIERING"}])]),
    ],
)  # fmt: skip
def test_mistakes(s3, bucket, code, rules):
    assert error(lambda: put_rules(s3, bucket, *rules)) == (400, code)
    assert error(lambda: s3.get_bucket_lifecycle_configuration(Bucket=bucket)) == (404, "NoSuchLifecycleConfiguration")


def test_as_many_rules_as_s3_takes(s3, bucket):
    many = [rule(f"r{n}", f"p{n}/", Expiration={"Days": 1}) for n in range(1000)]
    put_rules(s3, bucket, *many)
    assert len(s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]) == 1000
    assert error(lambda: put_rules(s3, bucket, *many, rule("one more", Expiration={"Days": 1}))) == (400, "MalformedXML")


def test_expiration_header(s3, bucket):
    put_rules(s3, bucket, rule("a rule/1", "logs/", Expiration={"Days": 1}), rule("later", "", Expiration={"Days": 9}))
    def expiry(answer):
        found = re.fullmatch(r'expiry-date="([^"]+)", rule-id="([^"]+)"', answer["Expiration"])
        assert found, answer["Expiration"]
        return datetime.datetime.strptime(found[1], "%a, %d %b %Y %H:%M:%S GMT"), found[2]
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    at, name = expiry(s3.put_object(Bucket=bucket, Key="logs/a", Body=b"x"))
    assert name == "a%20rule/1"
    assert (at.hour, at.minute, at.second) == (0, 0, 0)
    assert datetime.timedelta(days=1) <= at - now + datetime.timedelta(seconds=60)
    assert at - now <= datetime.timedelta(days=2)
    assert expiry(s3.head_object(Bucket=bucket, Key="logs/a")) == (at, name)
    assert expiry(s3.get_object(Bucket=bucket, Key="logs/a")) == (at, name)
    copied = s3.copy_object(Bucket=bucket, Key="b", CopySource=f"{bucket}/logs/a")
    assert expiry(copied)[1] == "later"
    upload = s3.create_multipart_upload(Bucket=bucket, Key="logs/m")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="logs/m", UploadId=upload, PartNumber=1, Body=b"x")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    done = s3.complete_multipart_upload(Bucket=bucket, Key="logs/m", UploadId=upload, MultipartUpload=parts)
    assert expiry(done)[1] == "a%20rule/1"
    s3.delete_bucket_lifecycle(Bucket=bucket)
    assert "Expiration" not in s3.head_object(Bucket=bucket, Key="logs/a")


def test_abort_headers(s3, bucket):
    put_rules(s3, bucket, rule("abort", "u/", AbortIncompleteMultipartUpload={"DaysAfterInitiation": 2}))
    made = s3.create_multipart_upload(Bucket=bucket, Key="u/k")
    assert made["AbortRuleId"] == "abort"
    assert made["AbortDate"] > datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    listed = s3.list_parts(Bucket=bucket, Key="u/k", UploadId=made["UploadId"])
    assert (listed["AbortRuleId"], listed["AbortDate"]) == ("abort", made["AbortDate"])
    assert "AbortDate" not in s3.create_multipart_upload(Bucket=bucket, Key="k")


# --- what the worker does ------------------------------------------------------------------------------------------


def test_expiry_by_age(days, bucket_name):
    days.create_bucket(Bucket=bucket_name)
    for key in ("soon/a", "soon/b", "late/a", "kept/a"):
        days.put_object(Bucket=bucket_name, Key=key, Body=b"x")
    put_rules(
        days, bucket_name,
        rule("soon", "soon/", Expiration={"Days": 1}),
        rule("late", "late/", Expiration={"Days": 5}),
        {**rule("off", "kept/", Expiration={"Days": 1}), "Status": "Disabled"},
    )  # fmt: skip
    wait_until(lambda: keys(days, bucket_name) == ["kept/a", "late/a"])
    wait_until(lambda: keys(days, bucket_name) == ["kept/a"])
    assert error(lambda: days.head_object(Bucket=bucket_name, Key="soon/a"))[0] == 404


def test_expiry_by_date_tag_and_size(days, bucket_name):
    days.create_bucket(Bucket=bucket_name)
    days.put_object(Bucket=bucket_name, Key="date/a", Body=b"x")
    days.put_object(Bucket=bucket_name, Key="future/a", Body=b"x")
    days.put_object(Bucket=bucket_name, Key="tag/yes", Body=b"x", Tagging="go=1&more=2")
    days.put_object(Bucket=bucket_name, Key="tag/no", Body=b"x", Tagging="go=2")
    days.put_object(Bucket=bucket_name, Key="size/large", Body=b"x" * 2001)
    days.put_object(Bucket=bucket_name, Key="size/small", Body=b"x" * 2000)
    days.put_object(Bucket=bucket_name, Key="size/end", Body=b"x" * 100)
    utc = datetime.timezone.utc
    put_rules(
        days, bucket_name,
        rule("date", "date/", Expiration={"Date": datetime.datetime(2020, 1, 1, tzinfo=utc)}),
        rule("future", "future/", Expiration={"Date": datetime.datetime(2100, 1, 1, tzinfo=utc)}),
        {**rule("tag", Expiration={"Days": 1}), "Filter": {"Tag": {"Key": "go", "Value": "1"}}},
        {**rule("size", Expiration={"Days": 1}), "Filter": {"And": {"Prefix": "size/", "ObjectSizeGreaterThan": 2000}}},
    )  # fmt: skip
    wait_until(lambda: keys(days, bucket_name) == ["future/a", "size/end", "size/small", "tag/no"])


def test_versions(days, bucket_name):
    days.create_bucket(Bucket=bucket_name)
    days.put_bucket_versioning(Bucket=bucket_name, VersioningConfiguration={"Status": "Enabled"})
    ids = [days.put_object(Bucket=bucket_name, Key="n/k", Body=b"%d" % n)["VersionId"] for n in range(6)]
    days.put_object(Bucket=bucket_name, Key="c/k", Body=b"x")
    put_rules(
        days, bucket_name,
        rule("noncurrent", "n/", NoncurrentVersionExpiration={"NoncurrentDays": 1, "NewerNoncurrentVersions": 2}),
        rule("current", "c/", Expiration={"Days": 1}),
    )  # fmt: skip
    # The current one and the two newest of the others stay.
    wait_until(lambda: [v["VersionId"] for v in versions(days, bucket_name, "n/")[0]] == ids[:2:-1])
    # A current version goes by a delete marker, and its bytes are still there.
    wait_until(lambda: len(versions(days, bucket_name, "c/")[1]) == 1)
    objects, markers = versions(days, bucket_name, "c/")
    assert len(objects) == 1 and markers[0]["IsLatest"]
    put_rules(days, bucket_name, rule("noncurrent", "c/", NoncurrentVersionExpiration={"NoncurrentDays": 1}))
    wait_until(lambda: versions(days, bucket_name, "c/")[0] == [])
    assert len(versions(days, bucket_name, "c/")[1]) == 1
    put_rules(days, bucket_name, rule("marker", "c/", Expiration={"ExpiredObjectDeleteMarker": True}))
    wait_until(lambda: versions(days, bucket_name, "c/") == ([], []))
    assert len(versions(days, bucket_name, "n/")[0]) == 3


def test_uploads(days, bucket_name):
    days.create_bucket(Bucket=bucket_name)
    made = {key: days.create_multipart_upload(Bucket=bucket_name, Key=key)["UploadId"] for key in ("a/1", "a/2", "b/1")}
    days.upload_part(Bucket=bucket_name, Key="a/1", UploadId=made["a/1"], PartNumber=1, Body=b"x" * 100_000)
    put_rules(days, bucket_name, rule("abort", "a/", AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1}))
    uploads = lambda: [u["Key"] for u in days.list_multipart_uploads(Bucket=bucket_name).get("Uploads", [])]  # noqa: E731
    wait_until(lambda: uploads() == ["b/1"])
    upload = {"Bucket": bucket_name, "Key": "a/1", "UploadId": made["a/1"]}
    assert error(lambda: days.list_parts(**upload)) == (404, "NoSuchUpload")


def test_transition(days, bucket_name):
    days.create_bucket(Bucket=bucket_name)
    days.put_object(Bucket=bucket_name, Key="large", Body=b"x" * (128 << 10))
    days.put_object(Bucket=bucket_name, Key="small", Body=b"x")
    before = days.head_object(Bucket=bucket_name, Key="large")
    put_rules(days, bucket_name, rule("move", Transitions=[{"Days": 1, "StorageClass": "INTELLIGENT_TIERING"}]))
    head = lambda key: days.head_object(Bucket=bucket_name, Key=key)  # noqa: E731
    wait_until(lambda: head("large").get("StorageClass") == "INTELLIGENT_TIERING")
    assert head("large")["LastModified"] == before["LastModified"] and head("large")["ETag"] == before["ETag"]
    assert "StorageClass" not in head("small")
    listed = {o["Key"]: o["StorageClass"] for o in days.list_objects_v2(Bucket=bucket_name)["Contents"]}
    assert listed == {"large": "INTELLIGENT_TIERING", "small": "STANDARD"}


def test_locked_versions_stay(days, bucket_name):
    days.create_bucket(Bucket=bucket_name, ObjectLockEnabledForBucket=True)
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    kept = days.put_object(
        Bucket=bucket_name, Key="kept", Body=b"1", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until
    )["VersionId"]
    held = days.put_object(Bucket=bucket_name, Key="held", Body=b"1", ObjectLockLegalHoldStatus="ON")["VersionId"]
    days.put_object(Bucket=bucket_name, Key="free", Body=b"1")
    for key in ("kept", "held", "free"):
        days.put_object(Bucket=bucket_name, Key=key, Body=b"2")
    put_rules(days, bucket_name, rule("r", Expiration={"Days": 1}, NoncurrentVersionExpiration={"NoncurrentDays": 1}))
    wait_until(lambda: versions(days, bucket_name, "free")[0] == [])
    # Both rules have been through here by now: current versions became delete markers over what is locked.
    wait_until(lambda: [v["VersionId"] for v in versions(days, bucket_name)[0]] == [held, kept])
    assert days.get_object(Bucket=bucket_name, Key="kept", VersionId=kept)["Body"].read() == b"1"
    days.put_object_legal_hold(Bucket=bucket_name, Key="held", VersionId=held, LegalHold={"Status": "OFF"})
    wait_until(lambda: [v["VersionId"] for v in versions(days, bucket_name)[0]] == [kept])


def test_a_kill_loses_no_place():
    with Server(env={"GRANARY_STORE_LIFECYCLE_DAY_SECONDS": str(DAY_SECONDS)}) as server:
        server.start()
        s3 = boto3_client(server.endpoint, retries=3)
        s3.create_bucket(Bucket="killed")
        for n in range(300):
            s3.put_object(Bucket="killed", Key=f"go/{n:04}", Body=b"x")
        s3.put_object(Bucket="killed", Key="stay/a", Body=b"x")
        put_rules(s3, "killed", rule("go", "go/", Expiration={"Days": 1}))
        for _ in range(3):
            time.sleep(DAY_SECONDS / 3)
            server.kill()
            server.start()
        wait_until(lambda: keys(s3, "killed") == ["stay/a"])
        status, page = server.admin_get("/metrics")
        assert status == 200 and 'granary_lifecycle_events_total{event="rounds",worker="lifecycle"}' in page
