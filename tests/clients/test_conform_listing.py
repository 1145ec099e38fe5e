"""Listings as S3's own test suites ask for them: delimiters of any kind, markers of any kind, pages of any size."""

from __future__ import annotations

import pytest

from tests.harness.failure import failure


def fill(s3, bucket: str, *keys: str) -> None:
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())


def keys(page: dict) -> list[str]:
    return [entry["Key"] for entry in page.get("Contents", [])]


def prefixes(page: dict) -> list[str]:
    return [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]


def both(s3, **arguments):
    """Either version's answer; `Marker` and `StartAfter` are the same thing here."""
    start = arguments.pop("start", None)
    one = s3.list_objects(**arguments, **({} if start is None else {"Marker": start}))
    two = s3.list_objects_v2(**arguments, **({} if start is None else {"StartAfter": start}))
    assert keys(one) == keys(two) and prefixes(one) == prefixes(two)
    assert two["KeyCount"] == len(keys(two)) + len(prefixes(two))
    assert one["IsTruncated"] == two["IsTruncated"] and one["MaxKeys"] == two["MaxKeys"]
    assert one.get("Delimiter") == two.get("Delimiter") and one["Prefix"] == two["Prefix"]
    return one, two


@pytest.mark.parametrize(
    ("names", "delimiter", "found", "rolled"),
    [
        (["foo/bar", "foo/bar/xyzzy", "quux/thud", "asdf"], "/", ["asdf"], ["foo/", "quux/"]),
        (["bar", "baz", "cab", "foo"], "a", ["foo"], ["ba", "ca"]),
        (["b%ar", "b%az", "c%ab", "foo"], "%", ["foo"], ["b%", "c%"]),
        (["b ar", "b az", "c ab", "foo"], " ", ["foo"], ["b ", "c "]),
        (["b.ar", "b.az", "c.ab", "foo"], ".", ["foo"], ["b.", "c."]),
        (["bar", "baz", "foo"], "\x0a", ["bar", "baz", "foo"], []),
        (["a--b", "a--c", "a-d", "e"], "--", ["a-d", "e"], ["a--"]),
        (["ü→a", "ü→b", "x"], "→", ["x"], ["ü→"]),
        (["0/a", "1000", "1999", "1999#", "1999+", "2000"], "/", ["1000", "1999", "1999#", "1999+", "2000"], ["0/"]),
    ],
)
def test_delimiters(s3, bucket, names, delimiter, found, rolled):
    fill(s3, bucket, *names)
    one, _ = both(s3, Bucket=bucket, Delimiter=delimiter)
    assert (one["Delimiter"], keys(one), prefixes(one)) == (delimiter, found, rolled)


def test_delimiter_that_is_empty_or_unused(s3, bucket):
    fill(s3, bucket, "bar", "foo")
    assert keys(both(s3, Bucket=bucket, Delimiter="")[0]) == ["bar", "foo"]
    assert "Delimiter" not in s3.list_objects(Bucket=bucket, Delimiter="")
    assert prefixes(both(s3, Bucket=bucket, Delimiter="/")[0]) == []


@pytest.mark.parametrize("names", [["asdf", "boo/bar", "boo/baz/xyzzy", "cquux/bla", "cquux/thud"], ["_o", "_u1/bar", "_u1/baz/xyzzy", "_u2/bla", "_u2/thud"]])
def test_pages_with_a_delimiter(s3, bucket, names):
    fill(s3, bucket, *names)
    first, second, third = names[0], names[1][: names[1].index("/") + 1], names[3][: names[3].index("/") + 1]
    for size in (1, 2):
        marker, token, seen = "", None, []
        while True:
            one = s3.list_objects(Bucket=bucket, Delimiter="/", MaxKeys=size, Marker=marker)
            more = {"ContinuationToken": token} if token else {"StartAfter": ""}
            two = s3.list_objects_v2(Bucket=bucket, Delimiter="/", MaxKeys=size, **more)
            assert (keys(one), prefixes(one), one["IsTruncated"]) == (keys(two), prefixes(two), two["IsTruncated"])
            seen += keys(one) + prefixes(one)
            if not one["IsTruncated"]:
                assert "NextMarker" not in one and "NextContinuationToken" not in two
                break
            assert one["NextMarker"] == seen[-1]
            marker, token = one["NextMarker"], two["NextContinuationToken"]
        assert seen == [first, second, third]
    inner = s3.list_objects(Bucket=bucket, Prefix=second, Delimiter="/", MaxKeys=1)
    assert (keys(inner), inner["NextMarker"]) == ([names[1]], names[1])


def test_prefixes(s3, bucket):
    fill(s3, bucket, "asdf/", "b/a/c", "b/a/g", "b/a/r", "foo/bar", "foo/baz", "g", "quux")
    assert keys(both(s3, Bucket=bucket, Prefix="asdf/", Delimiter="/")[0]) == ["asdf/"]
    assert keys(both(s3, Bucket=bucket, Prefix="foo/")[0]) == ["foo/bar", "foo/baz"]
    assert len(keys(both(s3, Bucket=bucket, Prefix="")[0])) == 8
    for absent in ("d", "\x0a", "bar"):
        one, _ = both(s3, Bucket=bucket, Prefix=absent)
        assert (one["Prefix"], keys(one)) == (absent, [])
    one, _ = both(s3, Bucket=bucket, Prefix="b", Delimiter="a")
    assert (keys(one), prefixes(one)) == ([], ["b/a"])
    one, _ = both(s3, Bucket=bucket, Prefix="b/a/", Delimiter="z")
    assert (keys(one), prefixes(one)) == (["b/a/c", "b/a/g", "b/a/r"], [])


def test_encoding_type_url(raw, s3, bucket):
    fill(s3, bucket, "foo+1/bar", "foo/bar/xyzzy", "quux ab/thud", "asdf+b", "ü")
    for query in ({}, {"list-type": "2"}):
        text = raw.request("GET", bucket, query=query | {"delimiter": "/", "encoding-type": "url"}).body.decode()
        for wanted in ("<Key>asdf%2Bb</Key>", "<Key>%C3%BC</Key>", "<Prefix>foo%2B1/</Prefix>", "<Prefix>quux%20ab/</Prefix>"):
            assert wanted in text
    assert raw.request("GET", bucket, query={"encoding-type": "hex"}).code == "InvalidArgument"


def test_sizes_of_pages(raw, s3, bucket):
    fill(s3, bucket, "bar", "baz", "foo", "quxx")
    one, two = both(s3, Bucket=bucket, MaxKeys=1)
    assert (keys(one), one["IsTruncated"]) == (["bar"], True)
    one, two = both(s3, Bucket=bucket, MaxKeys=0)
    assert (keys(one), one["IsTruncated"]) == ([], False)
    one, two = both(s3, Bucket=bucket)
    assert one["MaxKeys"] == 1000
    for wrong in ("blah", "", "-1", "99999999999999999999"):
        reply = raw.request("GET", bucket, query={"max-keys": wrong})
        assert (reply.status, reply.code) == (400, "InvalidArgument"), wrong


@pytest.mark.parametrize(
    ("start", "found"),
    [("", 4), ("baz", 2), ("blah", 2), ("\x0a", 4), ("zzz", 0), ("ü", 0)],
)
def test_markers(s3, bucket, start, found):
    names = ["bar", "baz", "foo", "quxx"]
    fill(s3, bucket, *names)
    one, two = both(s3, Bucket=bucket, start=start)
    assert keys(one) == names[4 - found :] and one["Marker"] == start
    assert two.get("StartAfter", "") == start


def test_tokens(s3, bucket):
    fill(s3, bucket, "bar", "baz", "foo", "quxx")
    empty = s3.list_objects_v2(Bucket=bucket, ContinuationToken="")
    assert (empty["ContinuationToken"], len(keys(empty))) == ("", 4)
    token = s3.list_objects_v2(Bucket=bucket, StartAfter="bar", MaxKeys=1)["NextContinuationToken"]
    rest = s3.list_objects_v2(Bucket=bucket, StartAfter="bar", ContinuationToken=token)
    assert (rest["ContinuationToken"], rest["StartAfter"], keys(rest)) == (token, "bar", ["foo", "quxx"])
    assert failure(s3.list_objects_v2, Bucket=bucket, ContinuationToken="made-up") == (400, "InvalidArgument")


def test_what_an_entry_says(s3, bucket):
    fill(s3, bucket, "bar", "baz")
    owner = s3.get_bucket_acl(Bucket=bucket)["Owner"]
    for entry in s3.list_objects(Bucket=bucket)["Contents"]:
        head = s3.head_object(Bucket=bucket, Key=entry["Key"])
        assert (entry["ETag"], entry["Size"]) == (head["ETag"], head["ContentLength"])
        assert entry["LastModified"].replace(microsecond=0) == head["LastModified"]
        assert entry["Owner"]["ID"] == owner["ID"] and entry["Owner"]["DisplayName"]
        assert entry["StorageClass"] == "STANDARD"
    with_owner = s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"]
    assert [entry["Owner"]["ID"] for entry in with_owner] == [owner["ID"]] * 2
    assert all("Owner" not in entry for entry in s3.list_objects_v2(Bucket=bucket)["Contents"])
    assert all("Owner" not in entry for entry in s3.list_objects_v2(Bucket=bucket, FetchOwner=False)["Contents"])


def test_names_of_every_kind(s3, bucket):
    names = [" ", '"', "$", "%", "&", "'", "+", "<", ">", "?", "_", "_ ", "_ _", "__", "a//b", "a/../b", "\x01", "\\", "é", "\U0001f980"]
    fill(s3, bucket, *names)
    assert keys(both(s3, Bucket=bucket)[0]) == sorted(names, key=str.encode)
    for name in names:
        assert s3.get_object(Bucket=bucket, Key=name)["Body"].read() == name.encode()
        s3.delete_object(Bucket=bucket, Key=name)
    assert keys(s3.list_objects(Bucket=bucket)) == []


def test_buckets_are_listed_in_pages(s3, raw, bucket_name):
    names = sorted(f"{bucket_name[:50]}-{n}" for n in range(3))
    for name in names:
        s3.create_bucket(Bucket=name)
    seen, token = [], None
    while True:
        more = {"ContinuationToken": token} if token else {}
        page = s3.list_buckets(MaxBuckets=2, Prefix=bucket_name[:50], **more)
        assert page["Prefix"] == bucket_name[:50] and page["Owner"]["ID"]
        seen += [entry["Name"] for entry in page["Buckets"]]
        token = page.get("ContinuationToken")
        if token is None:
            break
        assert len(page["Buckets"]) == 2
    assert seen == names
    for wrong in ("0", "10001", "x"):
        assert raw.request("GET", query={"max-buckets": wrong}).code == "InvalidArgument"
