"""boto3 as it comes (default checksums, plain http): buckets, objects, ranges, metadata, listings, deletes, copies."""

from __future__ import annotations

import datetime
import hashlib
import http.client
import socket
import urllib.error
import urllib.request

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.harness import ACCESS_KEY, Content, boto3_client

KIB, MIB = 1024, 1024 * 1024
# Either side of every size at which the engine changes what it does.
SIZES = [0, 1, 2, 4095, 16 * KIB, 16 * KIB + 1, 65_519, 65_520, 65_521, 128 * KIB, 128 * KIB + 1, 4 * 65_520,
         4 * 65_520 + 1, MIB, 4 * 524_160, 4 * 524_160 + 1, 5 * MIB + 3]  # fmt: skip


def error(call) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


# --- buckets -----------------------------------------------------------------------------------------------


def test_bucket_life(s3, bucket_name):
    assert error(lambda: s3.head_bucket(Bucket=bucket_name)) == (404, "404")
    assert error(lambda: s3.list_objects_v2(Bucket=bucket_name)) == (404, "NoSuchBucket")
    s3.create_bucket(Bucket=bucket_name)
    assert s3.head_bucket(Bucket=bucket_name)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert bucket_name in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    assert s3.get_bucket_location(Bucket=bucket_name)["LocationConstraint"] in (None, "us-east-1")
    s3.put_object(Bucket=bucket_name, Key="k", Body=b"x")
    assert error(lambda: s3.delete_bucket(Bucket=bucket_name)) == (409, "BucketNotEmpty")
    s3.delete_object(Bucket=bucket_name, Key="k")
    s3.delete_bucket(Bucket=bucket_name)
    assert bucket_name not in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    assert error(lambda: s3.delete_bucket(Bucket=bucket_name)) == (404, "NoSuchBucket")


def test_bucket_again_is_mine(s3, bucket):
    try:
        s3.create_bucket(Bucket=bucket)  # 200 in us-east-1 for the owner
    except ClientError as refused:
        assert refused.response["Error"]["Code"] == "BucketAlreadyOwnedByYou"


@pytest.mark.parametrize("name", ["Upper-Case", "a", "under_score", "-dash", "192.168.1.1", "a..b"])
def test_bucket_name_refused(raw, name):
    reply = raw.request("PUT", name)
    assert (reply.status, reply.code) == (400, "InvalidBucketName")


# --- objects -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_put_get_every_size(s3, bucket, size):
    content = Content(size + 7, size)
    put = s3.put_object(Bucket=bucket, Key="k", Body=content.data())
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["ContentLength"] == size
    assert got["Body"].read() == content.data()
    assert got["ETag"] == put["ETag"]
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["ContentLength"], head["ETag"]) == (size, put["ETag"])
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert [(o["Key"], o["Size"], o["ETag"]) for o in listed] == [("k", size, put["ETag"])]


def test_etag_is_md5_or_opaque(s3, bucket):
    """A hex MD5 must be the right one; anything else must have the `-N` form that clients take as opaque."""
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"hello")["ETag"].strip('"')
    assert etag == hashlib.md5(b"hello").hexdigest() or "-" in etag, etag


def test_overwrite(s3, bucket):
    for round_ in range(8):
        body = Content(round_, [100, 300_000, 20_000, 3 * MIB][round_ % 4]).data()
        s3.put_object(Bucket=bucket, Key="k", Body=body)
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_missing_key(s3, bucket):
    assert error(lambda: s3.get_object(Bucket=bucket, Key="none")) == (404, "NoSuchKey")
    assert error(lambda: s3.head_object(Bucket=bucket, Key="none")) == (404, "404")
    assert s3.delete_object(Bucket=bucket, Key="none")["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_metadata_and_system_headers(s3, bucket):
    headers = {
        "ContentType": "application/x-tar", "CacheControl": "max-age=60", "ContentDisposition": 'attachment; filename="a b"',
        "ContentEncoding": "zstd", "ContentLanguage": "de", "Expires": datetime.datetime(2031, 1, 2, 3, 4, 5),
    }  # fmt: skip
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"label": "7", "Split": "train"}, **headers)
    for got in (s3.head_object(Bucket=bucket, Key="k"), s3.get_object(Bucket=bucket, Key="k")):
        assert got["Metadata"] == {"label": "7", "split": "train"}
        assert got["Expires"].replace(tzinfo=None) == headers["Expires"]
        for name in headers.keys() - {"Expires"}:
            assert got[name] == headers[name], name
        assert "VersionId" not in got
    plain = s3.put_object(Bucket=bucket, Key="plain", Body=b"x") and s3.head_object(Bucket=bucket, Key="plain")
    assert plain["ContentType"] == "binary/octet-stream"


def test_response_overrides(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    got = s3.get_object(
        Bucket=bucket, Key="k", ResponseContentType="text/x-a", ResponseCacheControl="no-store",
        ResponseContentDisposition="inline", ResponseContentEncoding="x", ResponseContentLanguage="fr",
    )  # fmt: skip
    assert got["ContentType"] == "text/x-a" and got["CacheControl"] == "no-store"
    assert got["ContentDisposition"] == "inline" and got["ContentEncoding"] == "x" and got["ContentLanguage"] == "fr"


KEYS = ["plain", "with space", "ümläut/日本語/🦀", "a+b", "a%2Fb", "q?x=1&y=2", "per%cent", "tilde~", "star*(!)'", "dots/../x",
        "./here", "//double//slash//", "trailing/", "x" * 1024, "quote\"'", "semi;colon:eq=", "hash#at@"]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_odd_keys(s3, bucket, key):
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert [o["Key"] for o in s3.list_objects(Bucket=bucket, Prefix=key[:3])["Contents"]] == [key]
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == key.encode()
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}, {"Key": "copy"}]})
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_key_too_long(s3, bucket):
    assert error(lambda: s3.put_object(Bucket=bucket, Key="x" * 1025, Body=b"")) == (400, "KeyTooLongError")


# --- ranges ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 16 * KIB, 100_000, 1_000_003, 5 * MIB + 3])
def test_ranges(s3, bucket, size):
    data = Content(size, size).data()
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    edges = sorted({0, 1, size // 2, size - 2, size - 1, *(e for e in (65_519, 65_520, 65_521, 262_080, 524_160) if e < size)})
    for first in edges:
        for last in edges:
            if first <= last:
                got = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={first}-{last}")
                assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
                assert got["ContentRange"] == f"bytes {first}-{last}/{size}"
                assert got["Body"].read() == data[first : last + 1], (first, last)
    for form, expected in [
        (f"bytes={size - 3}-", data[-3:]),
        ("bytes=0-", data),
        ("bytes=-4", data[-4:]),
        (f"bytes=-{size + 100}", data),
        (f"bytes=2-{size + 1000}", data[2:]),
    ]:
        got = s3.get_object(Bucket=bucket, Key="k", Range=form)
        assert (got["ResponseMetadata"]["HTTPStatusCode"], got["Body"].read()) == (206, expected), form
    head = s3.head_object(Bucket=bucket, Key="k", Range="bytes=2-5")
    assert (head["ContentLength"], head["ContentRange"]) == (4, f"bytes 2-5/{size}")


def test_range_not_satisfiable(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    for form in ("bytes=10-", "bytes=10-20", "bytes=-0"):
        assert error(lambda form=form: s3.get_object(Bucket=bucket, Key="k", Range=form)) == (416, "InvalidRange"), form
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    assert error(lambda: s3.get_object(Bucket=bucket, Key="empty", Range="bytes=0-")) == (416, "InvalidRange")


def test_range_of_another_unit_is_ignored(raw, s3, bucket):
    """RFC 9110, 14.2: a Range that is not understood is as if it were not there."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    for form in ("lines=1-2", "bytes=5-2"):
        reply = raw.get(bucket, "k", range=form)
        assert (reply.status, reply.body) == (200, b"0123456789"), form


# --- deletes, copies ----------------------------------------------------------------------------------------


def test_multi_delete(s3, bucket):
    for number in range(30):
        s3.put_object(Bucket=bucket, Key=f"k{number:02d}", Body=b"x")
    answer = s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": f"k{n:02d}"} for n in range(20)] + [{"Key": "never-was"}]}
    )
    assert sorted(d["Key"] for d in answer["Deleted"]) == sorted([f"k{n:02d}" for n in range(20)] + ["never-was"])
    assert "Errors" not in answer
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 10
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k20"}], "Quiet": True})
    assert "Deleted" not in quiet


@pytest.mark.parametrize("size", [5, 100_000, 2 * MIB])
def test_copy(s3, bucket, bucket_name, size):
    data = Content(3, size).data()
    s3.put_object(Bucket=bucket, Key="from", Body=data, Metadata={"a": "1"}, ContentType="image/png")
    other = bucket_name[:55] + "-other"
    s3.create_bucket(Bucket=other)
    answer = s3.copy_object(Bucket=other, Key="to", CopySource={"Bucket": bucket, "Key": "from"})
    got = s3.get_object(Bucket=other, Key="to")
    assert got["Body"].read() == data
    assert got["Metadata"] == {"a": "1"} and got["ContentType"] == "image/png"
    assert answer["CopyObjectResult"]["ETag"] == got["ETag"]
    # The copy outlives its source, and the source's overwriting.
    s3.put_object(Bucket=bucket, Key="from", Body=b"other")
    s3.delete_object(Bucket=bucket, Key="from")
    assert s3.get_object(Bucket=other, Key="to")["Body"].read() == data
    s3.copy_object(
        Bucket=other, Key="to", CopySource={"Bucket": other, "Key": "to"}, MetadataDirective="REPLACE",
        Metadata={"b": "2"}, ContentType="text/plain",
    )  # fmt: skip
    head = s3.get_object(Bucket=other, Key="to")
    assert head["Metadata"] == {"b": "2"} and head["ContentType"] == "text/plain" and head["Body"].read() == data


def test_copy_onto_itself_without_change_is_refused(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    call = lambda: s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "k"})  # noqa: E731
    assert error(call) == (400, "InvalidRequest")
    missing = lambda: s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "none"})  # noqa: E731
    assert error(missing) == (404, "NoSuchKey")


# --- listings ------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(s3, bucket):
    keys = sorted([f"a/{i:03d}" for i in range(25)] + [f"b/{c}/{i}" for c in "xyz" for i in range(5)] + ["c", "d e", "z/"])
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return keys


@pytest.mark.parametrize("page", [1, 3, 7, 1000])
@pytest.mark.parametrize("version", ["list_objects", "list_objects_v2"])
def test_list_pages(s3, bucket, tree, version, page):
    for prefix, delimiter in [("", ""), ("", "/"), ("b/", "/"), ("a/", ""), ("b", "/"), ("nope", "/")]:
        keys, prefixes = [], []
        options = {"Prefix": prefix} | ({"Delimiter": delimiter} if delimiter else {})
        for answer in s3.get_paginator(version).paginate(Bucket=bucket, PaginationConfig={"PageSize": page}, **options):
            found = [o["Key"] for o in answer.get("Contents", [])]
            common = [p["Prefix"] for p in answer.get("CommonPrefixes", [])]
            assert len(found) + len(common) <= page
            keys += found
            prefixes += common
        below = [k for k in tree if k.startswith(prefix)]
        cut = [k[len(prefix) :].partition(delimiter) if delimiter else (k, "", "") for k in below]
        assert keys == [k for k, (_, mark, _) in zip(below, cut) if not mark], (prefix, delimiter)
        assert prefixes == sorted({prefix + head + mark for head, mark, _ in cut if mark}), (prefix, delimiter)


def test_list_start_after_and_fields(s3, bucket, tree):
    answer = s3.list_objects_v2(Bucket=bucket, StartAfter="b/y/2", MaxKeys=3)
    assert [o["Key"] for o in answer["Contents"]] == ["b/y/3", "b/y/4", "b/z/0"]
    assert answer["IsTruncated"] and answer["KeyCount"] == 3 and answer["MaxKeys"] == 3 and answer["StartAfter"] == "b/y/2"
    following = s3.list_objects_v2(Bucket=bucket, ContinuationToken=answer["NextContinuationToken"], MaxKeys=1)
    assert following["Contents"][0]["Key"] == "b/z/1"
    marked = s3.list_objects(Bucket=bucket, Marker="c")
    assert [o["Key"] for o in marked["Contents"]] == ["d e", "z/"]
    empty = s3.list_objects_v2(Bucket=bucket, MaxKeys=0)
    assert empty["KeyCount"] == 0 and not empty["IsTruncated"]
    assert s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0]["Owner"]["ID"]


def test_list_encoding_url(raw, s3, bucket):
    for key in ("a b+c", "ü/x", "new\nline"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    reply = raw.request("GET", bucket, query={"list-type": "2", "encoding-type": "url"})
    assert reply.status == 200 and b"<EncodingType>url</EncodingType>" in reply.body
    assert b"new%0Aline" in reply.body and b"%C3%BC/x" in reply.body
    assert b"a+b%2Bc" in reply.body or b"a%20b%2Bc" in reply.body
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["a b+c", "new\nline", "ü/x"]


def test_list_more_than_a_page(raw, s3, bucket):
    keys = [f"k{i:05d}" for i in range(1_203)]
    for key in keys:
        assert raw.put(bucket, key, b"1").status == 200
    assert list(raw.list_all(bucket)) == keys
    first = s3.list_objects_v2(Bucket=bucket, MaxKeys=5000)
    assert len(first["Contents"]) == 1000 and first["IsTruncated"]


def test_bad_arguments_of_a_listing(raw, bucket):
    for query in ({"max-keys": "x"}, {"max-keys": "-1"}, {"encoding-type": "morse"}):
        reply = raw.request("GET", bucket, query={"list-type": "2"} | query)
        assert (reply.status, reply.code) == (400, "InvalidArgument"), query


# --- who asks -------------------------------------------------------------------------------------------------


def test_wrong_keys_are_refused(server, bucket):
    for access, secret, code in [("NOBODYKNOWSTHISKEY00", "x" * 40, "InvalidAccessKeyId"), (None, "x" * 40, "SignatureDoesNotMatch")]:
        client = boto3.client(
            "s3", endpoint_url=server.endpoint, aws_access_key_id=access or ACCESS_KEY, aws_secret_access_key=secret,
            region_name="us-east-1", config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )  # fmt: skip
        assert error(lambda client=client: client.list_objects_v2(Bucket=bucket)) == (403, code)
        assert error(lambda client=client: client.put_object(Bucket=bucket, Key="k", Body=b"x")) == (403, code)


def test_no_signature_is_refused(server, bucket):
    for path in ("/", f"/{bucket}", f"/{bucket}/k"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(server.endpoint + path, timeout=10)
        assert caught.value.code == 403
        assert b"<Code>AccessDenied</Code>" in caught.value.read()


def test_altered_body_is_refused(raw, s3, bucket):
    """The payload's SHA-256 is signed: other bytes of the same length are not accepted, and change nothing."""
    for size in (10, 300_000):
        body = Content(1, size).data()
        s3.put_object(Bucket=bucket, Key="k", Body=b"before")
        headers = raw.sign("PUT", f"/{bucket}/k", "", {}, body)
        connection = http.client.HTTPConnection(raw.host, raw.port, timeout=30)
        connection.request("PUT", f"/{bucket}/k", body=body[:-1] + b"!", headers=headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.status == 400 and b"XAmzContentSHA256Mismatch" in text, text
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"before"


def test_body_cut_short_leaves_nothing(raw, s3, bucket):
    """A client that dies in the middle of its PUT leaves the old object as it was."""
    for size in (10_000, 3 * MIB):
        body = Content(9, size).data()
        s3.put_object(Bucket=bucket, Key="k", Body=b"before")
        headers = raw.sign("PUT", f"/{bucket}/k", "", {}, body)
        head = f"PUT /{bucket}/k HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers.items()) + "\r\n"
        with socket.create_connection((raw.host, raw.port)) as broken:
            broken.sendall(head.encode() + body[: size // 2])
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"before"


@pytest.mark.parametrize("signature", ["s3v4", "s3"])
@pytest.mark.parametrize("size", [3, 200_000])
def test_presigned(server, bucket, signature, size):
    """SigV4 and SigV2 query signatures; boto3 still makes the latter by default at custom endpoints."""
    s3 = boto3_client(server.endpoint, signature=signature)
    data = Content(5, size).data()
    put = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "a b/ü"}, ExpiresIn=60)
    request = urllib.request.Request(put, data=data, method="PUT")
    request.add_header("Content-Type", "")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    get = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a b/ü"}, ExpiresIn=60)
    with urllib.request.urlopen(get, timeout=30) as answer:
        assert answer.read() == data
    ranged = urllib.request.Request(get, headers={"Range": "bytes=1-2"})
    with urllib.request.urlopen(ranged, timeout=30) as answer:
        assert (answer.status, answer.read()) == (206, data[1:3])
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(get.replace("Signature=", "Signature=0"), timeout=30)
    assert caught.value.code == 403
    old = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a b/ü"}, ExpiresIn=-10 if signature == "s3" else 1)
    if signature == "s3":
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(old, timeout=30)
        assert caught.value.code == 403


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "us-east-2", "nowhere-7"])
def test_presigned_by_default_in_any_region(server, bucket, region):
    s3 = boto3_client(server.endpoint, region=region)
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.read() == b"body"
