"""Objects as S3's own test suites ask for them: metadata, tags, conditions, ranges, overrides, deletes of many."""

from __future__ import annotations

import datetime
import email.utils
import urllib.error
import urllib.request

import pytest

from tests.harness import boto3_client
from tests.harness.failure import failure

GONE = (404, "NoSuchKey")
FAILED = (412, "PreconditionFailed")


# --- buckets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a", "aa", "_alpha", "Alpha", "alpha!soup", "192.168.5.123", "foo_bar", "foo-", "foo..bar", "-foo", ".foo", "foo.",
     "xn--foo", "foo-s3alias", "a" * 64, "a" * 256, "a" * 3000],
)  # fmt: skip
def test_names_of_buckets_that_are_none(raw, name):
    reply = raw.request("PUT", name)
    assert (reply.status, reply.code) == (400, "InvalidBucketName")


def test_names_of_buckets_that_are_fine(s3, bucket_name):
    stem = bucket_name[-20:].strip("-").lstrip("0123456789-") or "x"
    for name in (f"a{stem}", f"0{stem}", f"{stem}.aaa.111", f"{stem}-aaa-111", (stem * 9)[:60].strip("-") + "abc"[: 3]):
        s3.create_bucket(Bucket=name)
        assert s3.head_bucket(Bucket=name)["BucketRegion"] == "us-east-1"
        s3.delete_bucket(Bucket=name)


def test_a_bucket_made_again_keeps_what_it_has(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.create_bucket(Bucket=bucket)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_locations(s3, server, bucket_name):
    s3.create_bucket(Bucket=bucket_name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert s3.get_bucket_location(Bucket=bucket_name)["LocationConstraint"] == "eu-west-1"
    assert failure(s3.create_bucket, Bucket=bucket_name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}) == (
        409, "BucketAlreadyOwnedByYou",
    )  # fmt: skip
    bad = {"LocationConstraint": "no such place"}
    assert failure(s3.create_bucket, Bucket=bucket_name + "x", CreateBucketConfiguration=bad) == (400, "InvalidLocationConstraint")


def test_the_root_takes_no_put(raw):
    reply = raw.request("PUT", "")
    assert (reply.status, reply.code) == (405, "MethodNotAllowed")


def test_another_owner_is_expected(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    owner = s3.get_bucket_acl(Bucket=bucket)["Owner"]["ID"]
    s3.list_objects_v2(Bucket=bucket, ExpectedBucketOwner=owner)
    wrong = {"Bucket": bucket, "ExpectedBucketOwner": "123456789012"}
    assert failure(s3.list_objects_v2, **wrong) == (403, "AccessDenied")
    assert failure(s3.put_object, **wrong, Key="k", Body=b"y") == (403, "AccessDenied")
    assert failure(s3.get_object, **wrong, Key="k") == (403, "AccessDenied")


# --- metadata ------------------------------------------------------------------------------------------------------


def test_metadata(s3, bucket):
    for value in ("mymeta", "", "a  b", "ä €"):
        if value.isascii():
            s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"meta1": value})
            assert s3.get_object(Bucket=bucket, Key="k")["Metadata"] == {"meta1": value}
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {}
    assert failure(s3.put_object, Bucket=bucket, Key="k", Body=b"x", Metadata={"m": "x" * 2048}) == (400, "MetadataTooLarge")


def test_metadata_beyond_ascii(raw, bucket):
    raw.put(bucket, "k", b"x", x_amz_meta_word="=?UTF-8?B?w6TigqwgYg==?=")
    assert "UTF-8" in raw.head(bucket, "k").headers["x-amz-meta-word"]


def test_metadata_in_several_lines(raw, server, bucket):
    """One name twice: the values are joined, as signatures join them."""
    import http.client

    signed = raw.sign("PUT", f"/{bucket}/k", "", {"x-amz-meta-a": "1,2"}, b"x")
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.putrequest("PUT", f"/{bucket}/k", skip_host=True, skip_accept_encoding=True)
    for name, value in signed.items():
        for one in value.split(",") if name == "x-amz-meta-a" else [value]:
            connection.putheader(name, one)
    connection.endheaders(b"x")
    assert connection.getresponse().read() == b""
    assert raw.head(bucket, "k").headers["x-amz-meta-a"] == "1,2"


def test_headers_come_back(s3, bucket):
    expires = datetime.datetime(2040, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", CacheControl="public, max-age=14400", Expires=expires, ContentEncoding="gzip")
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["CacheControl"], head["Expires"], head["ContentEncoding"]) == ("public, max-age=14400", expires, "gzip")


@pytest.mark.parametrize(("sent", "kept"), [("aws-chunked", None), ("gzip", "gzip"), ("deflate, gzip", "deflate,gzip"), ("gzip,aws-chunked", "gzip"), ("aws-chunked,gzip", "gzip")])
def test_content_encodings(raw, bucket, sent, kept):
    raw.put(bucket, "k", b"x", content_encoding=sent)
    assert raw.head(bucket, "k").headers.get("content-encoding") == kept


def test_overrides_of_an_answer(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    got = s3.get_object(
        Bucket=bucket, Key="k", ResponseCacheControl="no-cache", ResponseContentDisposition="bla", ResponseContentEncoding="aaa",
        ResponseContentLanguage="esperanto", ResponseContentType="foo/bar", ResponseExpires="123",
    )["ResponseMetadata"]["HTTPHeaders"]  # fmt: skip
    assert [got[h] for h in ("content-type", "content-disposition", "content-language", "content-encoding", "cache-control")] == [
        "foo/bar", "bla", "esperanto", "aaa", "no-cache",
    ]  # fmt: skip


# --- conditions ----------------------------------------------------------------------------------------------------


def test_conditions_of_reads(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"bar")["ETag"]
    past, future = datetime.datetime(1994, 10, 29), datetime.datetime(2100, 10, 29)
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    named = {"Bucket": bucket, "Key": "k"}
    for good in ({"IfMatch": etag}, {"IfNoneMatch": "ABCORZ"}, {"IfModifiedSince": past}, {"IfUnmodifiedSince": future}):
        assert s3.get_object(**named, **good)["Body"].read() == b"bar"
    for bad in ({"IfMatch": '"ABCORZ"'}, {"IfUnmodifiedSince": past}):
        assert failure(s3.get_object, **named, **bad) == FAILED
        assert failure(s3.head_object, **named, **bad) == (412, "412")
    for same in ({"IfNoneMatch": etag}, {"IfModifiedSince": modified}):
        assert failure(s3.get_object, **named, **same) == (304, "304")


def test_conditions_of_writes(s3, bucket):
    named = {"Bucket": bucket, "Key": "k"}
    assert failure(s3.put_object, **named, Body=b"x", IfMatch='"x"') == GONE
    etag = s3.put_object(**named, Body=b"1", IfNoneMatch="*")["ETag"]
    assert failure(s3.put_object, **named, Body=b"x", IfNoneMatch="*") == FAILED
    assert failure(s3.put_object, **named, Body=b"x", IfMatch='"ABCORZ"') == FAILED
    s3.put_object(**named, Body=b"2", IfMatch=etag.strip('"'))
    assert failure(s3.put_object, **named, Body=b"x", IfMatch=etag) == FAILED
    assert failure(s3.put_object, **named, Body=b"x", IfNoneMatch="*") == FAILED
    # With ETags, too: AWS takes `*` only, other stores and their suites what HTTP says.
    now = s3.put_object(**named, Body=b"3", IfNoneMatch=etag)["ETag"]
    assert failure(s3.put_object, **named, Body=b"x", IfNoneMatch=now) == FAILED
    assert s3.get_object(**named)["Body"].read() == b"3"


def test_conditions_look_at_the_current_version(s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    named = {"Bucket": bucket, "Key": "k"}
    etag = s3.put_object(**named, Body=b"1")["ETag"]
    s3.delete_object(**named)
    assert failure(s3.put_object, **named, Body=b"x", IfMatch=etag) == GONE
    s3.put_object(**named, Body=b"2", IfNoneMatch="*")


def test_conditions_of_deletes(raw, s3, bucket):
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"bar")
    head = s3.head_object(Bucket=bucket, Key="k")
    when = email.utils.format_datetime(head["LastModified"].astimezone(datetime.UTC), usegmt=True)
    long_ago = "Sat, 29 Oct 1994 19:43:31 GMT"
    for bad in ({"if-match": '"ABCORZ"'}, {"x-amz-if-match-size": "4"}, {"x-amz-if-match-last-modified-time": long_ago}):
        reply = raw.request("DELETE", bucket, "k", headers=bad)
        assert (reply.status, reply.code) == FAILED, bad
    good = {"if-match": put["ETag"], "x-amz-if-match-size": "3", "x-amz-if-match-last-modified-time": when}
    assert raw.request("DELETE", bucket, "k", headers=good).status == 204
    objects = [{"Key": "k", "ETag": put["ETag"]}, {"Key": "new", "ETag": '"ABCORZ"'}]
    s3.put_object(Bucket=bucket, Key="new", Body=b"x")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})
    assert {e["Key"]: e["Code"] for e in answer["Errors"]} == {"k": "NoSuchKey", "new": "PreconditionFailed"}
    size = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "new", "Size": 9}]})
    assert size["Errors"][0]["Code"] == "PreconditionFailed"
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "new", "ETag": "*", "Size": 1}]})
    assert failure(s3.get_object, Bucket=bucket, Key="new") == GONE


# --- ranges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=4-7", 4, 7), ("bytes=4-", 4, 10), ("bytes=-7", 4, 10), ("bytes=0-0", 0, 0), ("bytes=-99", 0, 10), ("bytes=5-99", 5, 10)],
)
def test_ranges(s3, bucket, asked, first, last):
    s3.put_object(Bucket=bucket, Key="k", Body=b"testcontent")
    got = s3.get_object(Bucket=bucket, Key="k", Range=asked)
    assert got["Body"].read() == b"testcontent"[first : last + 1]
    assert got["ContentRange"] == f"bytes {first}-{last}/11"
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206


def test_ranges_that_are_none(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"testcontent")
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    assert failure(s3.get_object, Bucket=bucket, Key="k", Range="bytes=40-50") == (416, "InvalidRange")
    assert failure(s3.get_object, Bucket=bucket, Key="empty", Range="bytes=40-50") == (416, "InvalidRange")
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=0-1,3-4")["Body"].read() == b"testcontent"


# --- tags ----------------------------------------------------------------------------------------------------------


def tags(count: int, key: int = 3, value: int = 3) -> dict:
    return {"TagSet": [{"Key": f"{n}".rjust(key, "k"), "Value": "v" * value} for n in range(count)]}


def test_tags_of_objects(s3, bucket):
    named = {"Bucket": bucket, "Key": "k"}
    s3.put_object(**named, Body=b"x", Tagging="foo=bar&bar")
    assert s3.get_object_tagging(**named)["TagSet"] == [{"Key": "bar", "Value": ""}, {"Key": "foo", "Value": "bar"}]
    assert s3.get_object(**named)["TagCount"] == 2
    assert s3.head_object(**named)["ResponseMetadata"]["HTTPHeaders"]["x-amz-tagging-count"] == "2"
    for fine in (tags(10), tags(10, 128, 256), tags(1)):
        s3.put_object_tagging(**named, Tagging=fine)
        assert s3.get_object_tagging(**named)["TagSet"] == fine["TagSet"]
    twice = {"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}
    system = {"TagSet": [{"Key": "aws:a", "Value": "1"}]}
    assert failure(s3.put_object_tagging, **named, Tagging=tags(11)) == (400, "BadRequest")
    for wrong in (tags(1, 129), tags(1, 3, 257), twice, system):
        assert failure(s3.put_object_tagging, **named, Tagging=wrong) == (400, "InvalidTag")
    assert s3.get_object_tagging(**named)["TagSet"] == tags(1)["TagSet"]
    assert s3.delete_object_tagging(**named)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert s3.get_object_tagging(**named)["TagSet"] == []
    assert failure(s3.get_object_tagging, Bucket=bucket, Key="none") == GONE
    assert failure(s3.put_object, **named, Body=b"x", Tagging="a=1&a=2") == (400, "InvalidArgument")


def test_tags_of_buckets(s3, bucket):
    assert failure(s3.get_bucket_tagging, Bucket=bucket) == (404, "NoSuchTagSet")
    wanted = {"TagSet": [{"Key": "Hello", "Value": "World"}, {"Key": "ä b", "Value": ""}]}
    s3.put_bucket_tagging(Bucket=bucket, Tagging=wanted)
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == wanted["TagSet"]
    s3.delete_bucket_tagging(Bucket=bucket)
    assert failure(s3.get_bucket_tagging, Bucket=bucket) == (404, "NoSuchTagSet")


# --- many at once --------------------------------------------------------------------------------------------------


def test_delete_many(s3, bucket):
    names = [f"key{n}" for n in range(3)]
    for name in names:
        s3.put_object(Bucket=bucket, Key=name, Body=b"x")
    objects = {"Objects": [{"Key": name} for name in names]}
    for _ in range(2):
        answer = s3.delete_objects(Bucket=bucket, Delete=objects)
        assert len(answer["Deleted"]) == 3 and "Errors" not in answer
    assert "Deleted" not in s3.delete_objects(Bucket=bucket, Delete=objects | {"Quiet": True})
    assert failure(s3.delete_objects, Bucket=bucket, Delete={"Objects": [{"Key": f"{n}"} for n in range(1001)]}) == (400, "MalformedXML")
    assert failure(s3.delete_objects, Bucket=bucket + "x", Delete=objects) == (404, "NoSuchBucket")


# --- names and what is gone ----------------------------------------------------------------------------------------


def test_the_longest_key(s3, bucket):
    key = "ü" * 512
    s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == 1
    assert failure(s3.put_object, Bucket=bucket, Key="k" * 1025, Body=b"x") == (400, "KeyTooLongError")


def test_what_is_not_there(s3, bucket, bucket_name):
    gone = {"Bucket": bucket + "-gone"}
    for call, more in [
        (s3.list_objects, {}), (s3.list_objects_v2, {}), (s3.list_object_versions, {}), (s3.list_multipart_uploads, {}),
        (s3.delete_bucket, {}), (s3.get_bucket_versioning, {}), (s3.get_bucket_location, {}), (s3.get_bucket_tagging, {}),
        (s3.get_object, {"Key": "k"}), (s3.put_object, {"Key": "k", "Body": b"x"}), (s3.delete_object, {"Key": "k"}),
        (s3.create_multipart_upload, {"Key": "k"}), (s3.get_object_tagging, {"Key": "k"}), (s3.get_object_acl, {"Key": "k"}),
        (s3.get_object_attributes, {"Key": "k", "ObjectAttributes": ["ETag"]}),
    ]:  # fmt: skip
        assert failure(call, **gone, **more) == (404, "NoSuchBucket"), call
    assert failure(s3.head_object, **gone, Key="k") == (404, "404")
    assert failure(s3.get_object_attributes, Bucket=bucket, Key="none", ObjectAttributes=["ETag"]) == GONE


def test_checksums_of_objects(s3, bucket):
    import base64
    import hashlib

    right = base64.b64encode(hashlib.sha256(b"body").digest()).decode()
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"body", ChecksumAlgorithm="SHA256", ChecksumSHA256=right)
    assert (put["ChecksumSHA256"], put["ChecksumType"]) == (right, "FULL_OBJECT")
    assert "ChecksumSHA256" not in s3.head_object(Bucket=bucket, Key="k")
    assert s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["ChecksumSHA256"] == right
    named = {"Bucket": bucket, "Key": "k", "Body": b"body", "ChecksumAlgorithm": "SHA256"}
    assert failure(s3.put_object, **named, ChecksumSHA256="bad") == (400, "InvalidRequest")
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    assert failure(s3.put_object, **named, ChecksumSHA256=wrong) == (400, "BadDigest")
    said = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["Checksum", "ETag", "ObjectParts", "ObjectSize"])
    assert said["Checksum"] == {"ChecksumSHA256": right, "ChecksumType": "FULL_OBJECT"}
    assert "ObjectParts" not in said and said["ETag"] == put["ETag"].strip('"')


# --- presigned URLs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "seconds", "status"),
    [("s3v4", 1000, 200), ("s3", 1000, 200), ("s3v4", 609_901, 400), ("s3v4", -7, 400), ("s3", -7, 403)],
)
def test_presigned_urls_and_their_time(server, bucket, signature, seconds, status):
    s3 = boto3_client(server.endpoint, signature=signature)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=seconds if signature == "s3" else max(seconds, 1))
    if seconds < 0:
        url = url.replace("X-Amz-Expires=1&", f"X-Amz-Expires={seconds}&")  # botocore's own signer refuses to make one
    try:
        with urllib.request.urlopen(url) as answer:
            assert (answer.status, answer.read()) == (status, b"x")
    except urllib.error.HTTPError as refused:
        assert refused.code == status


def test_there_are_no_torrents(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert failure(s3.get_object_torrent, Bucket=bucket, Key="k") == (404, "NoSuchKey")


def test_settings_that_a_new_bucket_does_not_have(s3, bucket):
    assert failure(s3.get_bucket_lifecycle_configuration, Bucket=bucket) == (404, "NoSuchLifecycleConfiguration")
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=bucket)
    assert "QueueConfigurations" not in s3.get_bucket_notification_configuration(Bucket=bucket)
    assert "Status" not in s3.get_bucket_accelerate_configuration(Bucket=bucket)
