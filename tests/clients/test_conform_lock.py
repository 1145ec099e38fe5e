"""Object lock: the bucket's configuration, retention and legal hold, and who may lift them."""

from __future__ import annotations

import datetime

import pytest

from tests.harness.failure import failure

DENIED = (403, "AccessDenied")


def later(days: float = 1.0) -> datetime.datetime:
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)).replace(microsecond=0)


@pytest.fixture
def locked(s3, bucket_name):
    s3.create_bucket(Bucket=bucket_name, ObjectLockEnabledForBucket=True)
    yield bucket_name
    sweep(s3, bucket_name)


def sweep(s3, name: str) -> None:
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=name):
        for entry in page.get("Versions", []) + page.get("DeleteMarkers", []):
            named = {"Bucket": name, "Key": entry["Key"], "VersionId": entry["VersionId"]}
            try:
                s3.put_object_legal_hold(**named, LegalHold={"Status": "OFF"})
            except s3.exceptions.ClientError:
                pass  # a delete marker
            s3.delete_object(**named, BypassGovernanceRetention=True)
    s3.delete_bucket(Bucket=name)


def rule(mode: str = "GOVERNANCE", enabled: str = "Enabled", **period: int) -> dict:
    return {"ObjectLockEnabled": enabled, "Rule": {"DefaultRetention": {"Mode": mode, **period}}}


# --- the configuration ----------------------------------------------------------------------------------------


def test_configuration_round_trips_in_its_own_unit(s3, locked):
    assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"] == {"ObjectLockEnabled": "Enabled"}
    for wanted in (rule(Days=1), rule("COMPLIANCE", Years=1), rule(Days=730), {"ObjectLockEnabled": "Enabled"}):
        s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=wanted)
        assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"] == wanted
    assert s3.get_bucket_versioning(Bucket=locked)["Status"] == "Enabled"
    suspended = {"Status": "Suspended"}
    assert failure(s3.put_bucket_versioning, Bucket=locked, VersioningConfiguration=suspended) == (409, "InvalidBucketState")


@pytest.mark.parametrize(
    ("configuration", "code"),
    [
        (rule(Days=1, Years=1), "MalformedXML"),
        (rule(), "MalformedXML"),
        (rule("abc", Days=1), "MalformedXML"),
        (rule("governance", Years=1), "MalformedXML"),
        (rule(enabled="Disabled", Years=1), "MalformedXML"),
        (rule(Days=0), "InvalidRetentionPeriod"),
        (rule(Years=-1), "InvalidRetentionPeriod"),
        (rule(Days=36501), "InvalidRetentionPeriod"),
    ],
)
def test_configuration_refused(s3, locked, configuration, code):
    assert failure(s3.put_object_lock_configuration, Bucket=locked, ObjectLockConfiguration=configuration) == (400, code)
    assert "Rule" not in s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"]


def test_enabled_later_needs_versioning(s3, bucket):
    absent = (404, "ObjectLockConfigurationNotFoundError")
    state = (409, "InvalidBucketState")
    put = {"Bucket": bucket, "ObjectLockConfiguration": rule(Days=1)}
    assert failure(s3.get_object_lock_configuration, Bucket=bucket) == absent
    assert failure(s3.put_object_lock_configuration, **put) == state
    for status in ("Enabled", "Suspended"):
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
    assert failure(s3.put_object_lock_configuration, **put) == state
    assert failure(s3.get_object_lock_configuration, Bucket=bucket) == absent
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object_lock_configuration(**put)
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"]
    assert failure(s3.delete_object, Bucket=bucket, Key="k", VersionId=version) == DENIED
    s3.delete_object(Bucket=bucket, Key="k", VersionId=version, BypassGovernanceRetention=True)


def test_buckets_without_lock_have_none_of_it(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    named = {"Bucket": bucket, "Key": "k"}
    refused = (400, "InvalidRequest")
    assert failure(s3.put_object_retention, **named, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": later()}) == refused
    assert failure(s3.get_object_retention, **named) == refused
    assert failure(s3.put_object_legal_hold, **named, LegalHold={"Status": "ON"}) == refused
    assert failure(s3.get_object_legal_hold, **named) == refused
    assert failure(s3.put_object, **named, Body=b"x", ObjectLockLegalHoldStatus="ON") == refused


# --- retention ---------------------------------------------------------------------------------------------------


def test_default_retention_and_its_override(s3, locked):
    s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=rule(Days=1))
    plain = s3.put_object(Bucket=locked, Key="plain", Body=b"x")["VersionId"]
    head = s3.head_object(Bucket=locked, Key="plain", VersionId=plain)
    assert head["ObjectLockMode"] == "GOVERNANCE"
    assert abs((head["ObjectLockRetainUntilDate"] - later()).total_seconds()) < 600
    until = later(3)
    s3.put_object(Bucket=locked, Key="own", Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until)
    assert s3.get_object_retention(Bucket=locked, Key="own")["Retention"] == {"Mode": "GOVERNANCE", "RetainUntilDate": until}
    upload = s3.create_multipart_upload(Bucket=locked, Key="parts")["UploadId"]
    part = s3.upload_part(Bucket=locked, Key="parts", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    done = s3.complete_multipart_upload(
        Bucket=locked, Key="parts", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]}
    )
    assert failure(s3.delete_object, Bucket=locked, Key="parts", VersionId=done["VersionId"]) == DENIED


def test_retention_is_prolonged_freely_and_shortened_with_the_bypass(s3, locked):
    version = s3.put_object(Bucket=locked, Key="k", Body=b"x")["VersionId"]
    named = {"Bucket": locked, "Key": "k"}
    mode = lambda days: {"Mode": "GOVERNANCE", "RetainUntilDate": later(days)}  # noqa: E731
    s3.put_object_retention(**named, VersionId=version, Retention=mode(2))
    s3.put_object_retention(**named, Retention=mode(3))
    assert failure(s3.put_object_retention, **named, Retention=mode(1)) == DENIED
    s3.put_object_retention(**named, Retention=mode(1), BypassGovernanceRetention=True)
    assert failure(s3.delete_object, **named, VersionId=version) == DENIED
    # A delete without a version only adds a marker; the version under it stays locked.
    marker = s3.delete_object(**named)
    assert marker["DeleteMarker"] is True
    assert failure(s3.delete_object, **named, VersionId=version) == DENIED
    s3.delete_object(**named, VersionId=marker["VersionId"])
    assert s3.get_object(**named)["Body"].read() == b"x"


@pytest.mark.parametrize("mode", ["governance", "abc"])
def test_retention_of_an_unknown_mode(s3, locked, mode):
    s3.put_object(Bucket=locked, Key="k", Body=b"x")
    retention = {"Mode": mode, "RetainUntilDate": later()}
    assert failure(s3.put_object_retention, Bucket=locked, Key="k", Retention=retention) == (400, "MalformedXML")


def test_compliance_is_for_everybody(s3, locked):
    # Seconds, so that the sweep can remove it.
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=4)
    version = s3.put_object(
        Bucket=locked, Key="k", Body=b"x", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until
    )["VersionId"]
    named = {"Bucket": locked, "Key": "k", "VersionId": version}
    weaker = {"Mode": "GOVERNANCE", "RetainUntilDate": later()}
    assert failure(s3.put_object_retention, **named, Retention=weaker, BypassGovernanceRetention=True) == DENIED
    assert failure(s3.delete_object, **named, BypassGovernanceRetention=True) == DENIED
    while datetime.datetime.now(datetime.UTC) < until + datetime.timedelta(seconds=0.2):
        assert s3.head_object(**named)["ObjectLockMode"] == "COMPLIANCE"
    s3.delete_object(**named)


def test_modes_change_with_the_right(s3, locked):
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=4)
    governance, compliance = ({"Mode": m, "RetainUntilDate": soon} for m in ("GOVERNANCE", "COMPLIANCE"))
    s3.put_object(Bucket=locked, Key="k", Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=later())
    assert failure(s3.put_object_retention, Bucket=locked, Key="k", Retention=compliance) == DENIED
    s3.put_object_retention(Bucket=locked, Key="k", Retention=compliance, BypassGovernanceRetention=True)
    assert failure(
        s3.put_object_retention, Bucket=locked, Key="k", Retention=governance, BypassGovernanceRetention=True
    ) == DENIED
    while s3.head_object(Bucket=locked, Key="k")["ObjectLockRetainUntilDate"] > datetime.datetime.now(datetime.UTC):
        pass


# --- legal hold ---------------------------------------------------------------------------------------------------


def test_legal_hold(s3, locked):
    version = s3.put_object(Bucket=locked, Key="k", Body=b"x", ObjectLockLegalHoldStatus="ON")["VersionId"]
    named = {"Bucket": locked, "Key": "k"}
    assert s3.head_object(**named)["ObjectLockLegalHoldStatus"] == "ON"
    assert failure(s3.put_object_legal_hold, **named, LegalHold={"Status": "abc"}) == (400, "MalformedXML")
    assert failure(s3.delete_object, **named, VersionId=version, BypassGovernanceRetention=True) == DENIED
    s3.put_object_legal_hold(**named, LegalHold={"Status": "OFF"})
    assert s3.get_object_legal_hold(**named)["LegalHold"] == {"Status": "OFF"}
    s3.delete_object(**named, VersionId=version)


# --- many at once -------------------------------------------------------------------------------------------------


def test_multi_delete_meets_the_same_wall(s3, locked):
    lock = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": later()}
    kept = s3.put_object(Bucket=locked, Key="kept", Body=b"x", **lock)["VersionId"]
    free = s3.put_object(Bucket=locked, Key="free", Body=b"x")["VersionId"]
    objects = [{"Key": "kept", "VersionId": kept}, {"Key": "free", "VersionId": free}]
    answer = s3.delete_objects(Bucket=locked, Delete={"Objects": objects})
    assert [e["Key"] for e in answer["Deleted"]] == ["free"]
    assert [(e["Key"], e["VersionId"], e["Code"]) for e in answer["Errors"]] == [("kept", kept, "AccessDenied")]
    answer = s3.delete_objects(Bucket=locked, Delete={"Objects": objects[:1]}, BypassGovernanceRetention=True)
    assert "Errors" not in answer and len(answer["Deleted"]) == 1
