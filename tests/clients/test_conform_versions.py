"""Versioning: every state a key can be in, every token of the listing, in the order that S3 sends it."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ElementTree

import pytest

from tests.harness.failure import failure
from tests.harness.raw import NAMESPACE


def versioning(s3, bucket: str, status: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"MFADelete": "Disabled", "Status": status})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == status


@pytest.fixture
def versioned(s3, bucket):
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    versioning(s3, bucket, "Enabled")
    return bucket


def put(s3, bucket: str, key: str, *bodies: str) -> list[str]:
    return [s3.put_object(Bucket=bucket, Key=key, Body=body.encode()).get("VersionId", "null") for body in bodies]


def every(s3, bucket: str, **more) -> list[tuple[str, str]]:
    page = s3.list_object_versions(Bucket=bucket, **more)
    return [(v["Key"], v["VersionId"]) for v in page.get("Versions", []) + page.get("DeleteMarkers", [])]


def test_write_read_remove(s3, versioned):
    ids = put(s3, versioned, "k", *"abcde")
    assert len(set(ids)) == 5
    assert every(s3, versioned) == [("k", version) for version in reversed(ids)]
    for body, version in zip("abcde", ids):
        assert s3.get_object(Bucket=versioned, Key="k", VersionId=version)["Body"].read() == body.encode()
    # The newest goes, and the one before it comes to light.
    while ids:
        gone = ids.pop()
        answer = s3.delete_object(Bucket=versioned, Key="k", VersionId=gone)
        assert answer["VersionId"] == gone and "DeleteMarker" not in answer
        assert failure(s3.get_object, Bucket=versioned, Key="k", VersionId=gone) == (404, "NoSuchVersion")
        if ids:
            assert s3.get_object(Bucket=versioned, Key="k")["VersionId"] == ids[-1]
    assert failure(s3.get_object, Bucket=versioned, Key="k") == (404, "NoSuchKey")


def test_delete_markers(s3, versioned):
    [version] = put(s3, versioned, "k", "x")
    marker = s3.delete_object(Bucket=versioned, Key="k")
    assert marker["DeleteMarker"] is True and marker["VersionId"] not in (version, "null")
    assert failure(s3.get_object, Bucket=versioned, Key="k") == (404, "NoSuchKey")
    assert failure(s3.head_object, Bucket=versioned, Key="k", VersionId=marker["VersionId"]) == (405, "405")
    assert failure(s3.get_object, Bucket=versioned, Key="k", VersionId=marker["VersionId"]) == (405, "MethodNotAllowed")
    page = s3.list_object_versions(Bucket=versioned)
    assert [(v["VersionId"], v["IsLatest"]) for v in page["Versions"]] == [(version, False)]
    assert [(m["VersionId"], m["IsLatest"]) for m in page["DeleteMarkers"]] == [(marker["VersionId"], True)]
    assert page["Versions"][0]["Owner"]["DisplayName"] and page["DeleteMarkers"][0]["Owner"]["ID"]
    gone = s3.delete_object(Bucket=versioned, Key="k", VersionId=marker["VersionId"])
    assert gone["DeleteMarker"] is True and gone["VersionId"] == marker["VersionId"]
    assert s3.get_object(Bucket=versioned, Key="k")["Body"].read() == b"x"
    # A marker is added even where nothing was.
    assert s3.delete_object(Bucket=versioned, Key="nothing")["DeleteMarker"] is True


def test_the_null_version_of_before(s3, bucket):
    put(s3, bucket, "k", "before")
    versioning(s3, bucket, "Enabled")
    [version] = put(s3, bucket, "k", "after")
    assert every(s3, bucket) == [("k", version), ("k", "null")]
    assert s3.get_object(Bucket=bucket, Key="k", VersionId="null")["Body"].read() == b"before"
    s3.delete_object(Bucket=bucket, Key="k", VersionId=version)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"before"
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert failure(s3.get_object, Bucket=bucket, Key="k") == (404, "NoSuchKey")
    assert every(s3, bucket) == []


def test_suspended(s3, versioned):
    old = put(s3, versioned, "k", "1", "2")
    versioning(s3, versioned, "Suspended")
    for body in ("null one", "null two"):
        s3.put_object(Bucket=versioned, Key="k", Body=body.encode())
        assert every(s3, versioned) == [("k", "null"), ("k", old[1]), ("k", old[0])]
        assert s3.get_object(Bucket=versioned, Key="k")["Body"].read() == body.encode()
    marker = s3.delete_object(Bucket=versioned, Key="k")
    assert (marker["DeleteMarker"], marker["VersionId"]) == (True, "null")
    assert sorted(every(s3, versioned)) == sorted([("k", "null"), ("k", old[1]), ("k", old[0])])
    s3.delete_object(Bucket=versioned, Key="k", VersionId="null")
    assert s3.get_object(Bucket=versioned, Key="k")["Body"].read() == b"2"
    s3.copy_object(Bucket=versioned, Key="copy", CopySource={"Bucket": versioned, "Key": "k", "VersionId": old[0]})
    assert every(s3, versioned, Prefix="copy") == [("copy", "null")]
    versioning(s3, versioned, "Enabled")
    [new] = put(s3, versioned, "k", "3")
    assert [v for _, v in every(s3, versioned, Prefix="k")] == [new, old[1], old[0]]


def test_unversioned_says_nothing_of_versions(s3, bucket):
    assert "VersionId" not in s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert "VersionId" not in s3.get_object(Bucket=bucket, Key="k")
    answer = s3.delete_object(Bucket=bucket, Key="k")
    assert "VersionId" not in answer and "DeleteMarker" not in answer


def test_pages_and_their_tokens(s3, raw, versioned):
    wanted = []
    for key in ("a", "b/1", "b/2", "c"):
        ids = put(s3, versioned, key, "1", "2")
        ids.append(s3.delete_object(Bucket=versioned, Key=key)["VersionId"])
        wanted += [(key, version) for version in reversed(ids)]
    for size in (1, 2, 5, 100):
        seen, query = [], {"versions": "", "max-keys": str(size)}
        while True:
            root = ElementTree.fromstring(raw.request("GET", versioned, query=query).body)
            entries = [e for e in root if e.tag in (f"{NAMESPACE}Version", f"{NAMESPACE}DeleteMarker")]
            assert len(entries) <= size
            # One order for versions and markers, newest first within a key.
            seen += [(e.findtext(f"{NAMESPACE}Key"), e.findtext(f"{NAMESPACE}VersionId")) for e in entries]
            if root.findtext(f"{NAMESPACE}IsTruncated") == "false":
                break
            query |= {
                "key-marker": root.findtext(f"{NAMESPACE}NextKeyMarker"),
                "version-id-marker": root.findtext(f"{NAMESPACE}NextVersionIdMarker"),
            }
        assert seen == wanted, size
    rolled = s3.list_object_versions(Bucket=versioned, Delimiter="/")
    assert [p["Prefix"] for p in rolled["CommonPrefixes"]] == ["b/"]
    behind = s3.list_object_versions(Bucket=versioned, KeyMarker="b/1")
    assert (behind["KeyMarker"], behind["VersionIdMarker"]) == ("b/1", "")
    assert {v["Key"] for v in behind["Versions"]} == {"b/2", "c"}
    alone = raw.request("GET", versioned, query={"versions": "", "version-id-marker": wanted[0][1]})
    assert (alone.status, alone.code) == (400, "InvalidArgument")
    for marker in ("nonsense",):
        wrong = raw.request("GET", versioned, query={"versions": "", "key-marker": "a", "version-id-marker": marker})
        assert (wrong.status, wrong.code) == (400, "InvalidArgument")


@pytest.mark.parametrize("key", ["_testobj", "_", ":", " ", "?versionId", "a+b"])
def test_awkward_names(s3, versioned, key):
    ids = put(s3, versioned, key, "1", "2", "3")
    assert every(s3, versioned) == [(key, version) for version in reversed(ids)]
    s3.copy_object(Bucket=versioned, Key="copy", CopySource={"Bucket": versioned, "Key": key, "VersionId": ids[0]})
    assert s3.get_object(Bucket=versioned, Key="copy")["Body"].read() == b"1"
    for version in ids:
        s3.delete_object(Bucket=versioned, Key=key, VersionId=version)
    assert every(s3, versioned, Prefix=key) == []


def test_version_ids_that_are_none(s3, raw, versioned):
    put(s3, versioned, "k", "x")
    for text, answer in (("nonsense", (400, "InvalidArgument")), ("", (400, "InvalidArgument"))):
        reply = raw.request("GET", versioned, "k", query={"versionId": text})
        assert (reply.status, reply.code) == answer, text
    assert failure(s3.get_object, Bucket=versioned, Key="k", VersionId="null") == (404, "NoSuchVersion")


def test_multi_delete_by_version_and_without(s3, versioned):
    ids = put(s3, versioned, "k", "1", "2")
    objects = [{"Key": "k", "VersionId": version} for version in ids]
    for _ in range(2):  # a second time is as good
        answer = s3.delete_objects(Bucket=versioned, Delete={"Objects": objects})
        assert sorted(d["VersionId"] for d in answer["Deleted"]) == sorted(ids) and "Errors" not in answer
    [made] = s3.delete_objects(Bucket=versioned, Delete={"Objects": [{"Key": "k"}]})["Deleted"]
    assert made["DeleteMarker"] is True and made["DeleteMarkerVersionId"] and "VersionId" not in made
    marker = {"Key": "k", "VersionId": made["DeleteMarkerVersionId"]}
    [gone] = s3.delete_objects(Bucket=versioned, Delete={"Objects": [marker]})["Deleted"]
    assert (gone["VersionId"], gone["DeleteMarkerVersionId"], gone["DeleteMarker"]) == (marker["VersionId"], marker["VersionId"], True)
    assert every(s3, versioned) == []


def test_multipart_makes_a_version(s3, versioned):
    [plain] = put(s3, versioned, "k", "plain")
    upload = s3.create_multipart_upload(Bucket=versioned, Key="k")["UploadId"]
    part = s3.upload_part(Bucket=versioned, Key="k", UploadId=upload, PartNumber=1, Body=b"parts")["ETag"]
    done = s3.complete_multipart_upload(
        Bucket=versioned, Key="k", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]}
    )
    assert every(s3, versioned) == [("k", done["VersionId"]), ("k", plain)]


def test_tags_and_attributes_of_a_version(s3, versioned):
    old, new = put(s3, versioned, "k", "1", "22")
    tag = {"TagSet": [{"Key": "age", "Value": "old"}]}
    assert s3.put_object_tagging(Bucket=versioned, Key="k", VersionId=old, Tagging=tag)["VersionId"] == old
    assert s3.get_object_tagging(Bucket=versioned, Key="k", VersionId=old)["TagSet"] == tag["TagSet"]
    assert s3.get_object_tagging(Bucket=versioned, Key="k")["TagSet"] == []
    said = s3.get_object_attributes(Bucket=versioned, Key="k", VersionId=old, ObjectAttributes=["ObjectSize", "ETag"])
    assert (said["ObjectSize"], said["VersionId"]) == (1, old)
    assert s3.get_object_attributes(Bucket=versioned, Key="k", ObjectAttributes=["ObjectSize"])["VersionId"] == new


def test_many_at_once(s3, versioned):
    """Writers and removers of one key: every write is a version, every removal takes just its own."""
    ids: list[str] = []
    threads = [threading.Thread(target=lambda n=n: ids.extend(put(s3, versioned, "k", str(n)))) for n in range(8)]
    [t.start() for t in threads] and [t.join() for t in threads]
    assert len(set(ids)) == 8 and sorted(v for _, v in every(s3, versioned)) == sorted(ids)
    remove = lambda version: s3.delete_object(Bucket=versioned, Key="k", VersionId=version)  # noqa: E731
    threads = [threading.Thread(target=remove, args=(version,)) for version in ids]
    [t.start() for t in threads] and [t.join() for t in threads]
    assert every(s3, versioned) == []
