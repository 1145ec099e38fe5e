"""Every operation that botocore's model of S3 knows × everybody who may not: nothing falls through.

The operations are read from botocore itself, so that a new one is asked about as soon as botocore is newer.
"""

from __future__ import annotations

import datetime
import json
import time

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.harness import boto3_client

from .people import client, deny, granary, name, put_policy, user

MODEL = boto3.session.Session().client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x").meta.service_model
OPERATIONS = sorted(MODEL.operation_names)
# Answers of a server that has done nothing: it refused, or does not know the operation at all.
REFUSALS = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "Forbidden"}
UNKNOWN = {"NotImplemented", "MethodNotAllowed", "501", "405"}
# Newer than the server: these look like malformed requests of other operations, and are refused as such.
NEWER = {"PutBucketAbac", "UpdateBucketMetadataAnnotationTableConfiguration", "UpdateBucketMetadataInventoryTableConfiguration",
         "UpdateBucketMetadataJournalTableConfiguration", "WriteGetObjectResponse", "CreateBucketMetadataConfiguration"}  # fmt: skip
# PreconditionFailed: a POST to a bucket that is no form, which anybody may be told.
MALFORMED = {"MalformedXML", "InvalidBucketName", "PreconditionFailed"}
# Not of S3's own actions: `s3:*` does not allow them.
FOREIGN = {"WriteGetObjectResponse", "ListDirectoryBuckets"}
POLICY = json.dumps({"Version": "2012-10-17", "Statement": []})


def value(shape, named: str, bucket: str, key: str):
    """Something that the member `named` of that shape can be."""
    known = {
        "Bucket": bucket, "Key": key, "CopySource": f"{bucket}/{key}", "RenameSource": f"{bucket}/{key}", "UploadId": "no-such-upload",
        "PartNumber": 1, "Id": "id", "ID": "id", "Policy": POLICY, "RequestRoute": "route", "RequestToken": "token", "Expression": "SELECT 1",
        "LocationConstraint": "eu-west-1", "VersionId": "null", "Days": 1, "Years": 1,
    }  # fmt: skip
    if named in known and shape.type_name in ("string", "integer", "long"):
        return known[named]
    match shape.type_name:
        case "structure":
            members = {n: m for n, m in shape.members.items() if n in shape.required_members}
            if not members and shape.members:  # one of several, or all optional: the first will do
                members = dict(list(shape.members.items())[:1])
            return {n: value(m, n, bucket, key) for n, m in members.items()}
        case "list":
            return [value(shape.member, named, bucket, key)]
        case "map":
            return {}
        case "string":
            return shape.enum[0] if getattr(shape, "enum", None) else "text" * max(1, shape.metadata.get("min", 1) // 4 + 1)
        case "blob":
            return b"bytes"
        case "boolean":
            return True
        case "timestamp":
            return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=2)
        case "integer" | "long":
            return 1
        case other:
            raise AssertionError(f"{named}: a shape of type {other}")


def arguments(operation: str, bucket: str, key: str) -> dict:
    shape = MODEL.operation_model(operation).input_shape
    if shape is None:
        return {}
    members = {n: shape.members[n] for n in shape.required_members}
    # Documents without which the request would be refused for its form, not for who sends it.
    for optional in ("Tagging", "Retention", "LegalHold", "Delete", "RestoreRequest", "CreateBucketConfiguration"):
        if optional in shape.members:
            members[optional] = shape.members[optional]
    filled = {n: value(m, n, bucket, key) for n, m in members.items()}
    if operation in ("PutObject", "UploadPart"):
        filled["Body"] = b"bytes"
    if operation == "CreateBucket":
        filled["Bucket"] = name("matrix-new")
        filled.pop("CreateBucketConfiguration", None)
    if "Tagging" in filled and isinstance(filled["Tagging"], str):
        filled["Tagging"] = "a=b"
    if operation == "PutObjectRetention":
        until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=2)
        filled["Retention"] = {"Mode": "GOVERNANCE", "RetainUntilDate": until}
    if operation == "PutObjectLegalHold":
        filled["LegalHold"] = {"Status": "ON"}
    if operation == "RestoreObject":
        filled["RestoreRequest"] = {"Days": 1}
    return filled


def outcome(caller, operation: str, bucket: str, key: str) -> tuple[int, str, dict]:
    method = next(m for m, o in caller.meta.method_to_api_mapping.items() if o == operation)
    try:
        answer = getattr(caller, method)(**arguments(operation, bucket, key))
        return answer["ResponseMetadata"]["HTTPStatusCode"], "", answer
    except ClientError as error:
        answer = error.response
        return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer


@pytest.fixture(scope="module")
def stage(server):
    """A bucket with an object, and everybody."""
    s3 = boto3_client(server.endpoint)
    bucket = name("matrix")
    s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    s3.put_object(Bucket=bucket, Key="key", Body=b"before", Tagging="a=b")
    _, right = user(server, "readwrite")
    denied, denied_key = user(server, "readwrite")
    granary(server, "policy", "attach", put_policy(server, name("no"), deny("*")), "--user", denied)
    expiring, _ = user(server, "readwrite")
    expired = granary(server, "key", "create", "--user", expiring, "--expires", "1s")
    _, without = user(server)
    time.sleep(1.1)
    more = {"inject_host_prefix": False}
    return s3, bucket, {
        "anonymous": client(server, None, **more),
        "wrong secret": client(server, right | {"secret_key": "w" * 40}, **more),
        "unknown key": client(server, right | {"access_key": "AKIANOBODY"}, **more),
        "expired key": client(server, expired, **more),
        "no policy": client(server, without, **more),
        "denied": client(server, denied_key, **more),
    }, client(server, right, **more)  # fmt: skip


def state(s3, bucket: str):
    versions = s3.list_object_versions(Bucket=bucket)
    tags = s3.get_object_tagging(Bucket=bucket, Key="key")["TagSet"]
    return (
        [(v["Key"], v["VersionId"], v["ETag"]) for v in versions.get("Versions", [])],
        versions.get("DeleteMarkers", []), tags, s3.get_bucket_versioning(Bucket=bucket).get("Status"),
        s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []),
    )  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nobody_falls_through(stage, operation):
    s3, bucket, people, _ = stage
    before = state(s3, bucket)
    for who, caller in people.items():
        status, code, answer = outcome(caller, operation, bucket, "key")
        if operation == "DeleteObjects" and status == 200:
            assert not answer.get("Deleted") and {e["Code"] for e in answer["Errors"]} == {"AccessDenied"}, who
            continue
        fine = (status == 403 and code in REFUSALS) or code in UNKNOWN or (operation in NEWER and code in MALFORMED)
        assert fine, f"{operation} by {who}: {status} {code}"
    assert state(s3, bucket) == before, f"{operation} changed something"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_who_may_is_let_in(server, stage, operation):
    *_, right = stage
    if operation in FOREIGN:
        pytest.skip("not an action of S3's own")
    # One's own bucket, so that whatever happens to it is nobody else's.
    bucket = name("mine")
    right.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    right.put_object(Bucket=bucket, Key="key", Body=b"before")
    status, code, answer = outcome(right, operation, bucket, "key")
    if operation == "RestoreObject":  # let in, and told that there is nothing to restore: S3 says that with 403, too
        assert code == "InvalidObjectState", answer
        return
    assert status != 403 and code not in REFUSALS, f"{operation}: {status} {code} {answer}"
    assert "AccessDenied" not in [e["Code"] for e in answer.get("Errors", []) if isinstance(e, dict)]
