"""Members of tar shards, batches and the latest checkpoint, asked for with botocore's signer and a plain connection."""

from __future__ import annotations

import base64
import io
import tarfile
import threading
import urllib.error
import urllib.request

import pytest

from tests.harness import Content
from tests.harness.granary import Signed, entries, make_tar

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}


@pytest.fixture
def ask(server) -> Signed:
    return Signed(server.endpoint)


def samples(count: int, size: int = 700) -> dict[str, bytes]:
    made = {}
    for number in range(count):
        made[f"train/{number:06}.jpg"] = Content(number, size + number % 600).data()
        made[f"train/{number:06}.cls"] = str(number % 10).encode()
    return made


# --- members -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_members_are_what_tar_reads(s3, ask, bucket, format):
    members = samples(300) | {"empty": b"", "big.bin": Content(7, 3_000_000).data()}
    if format != "ustar":
        members |= {"d/" * 80 + "deep": b"deep", "n" * 250: b"long", "gr\u00fc\u00dfe/\u4f60.txt": b"utf-8"}
    s3.put_object(Bucket=bucket, Key=f"{format}.tar", Body=make_tar(members, FORMATS[format]))
    for name in [*list(members)[::37], *list(members)[-5:]]:
        got = ask("GET", f"/{bucket}/{format}.tar", {"granary-member": name})
        assert (got.status, got.body) == (200, members[name]), name
        assert got.headers["content-length"] == str(len(members[name]))
        # The offset is that of the bytes in the object: an ordinary range read gives the same.
        if members[name]:
            start = int(got.headers["x-granary-member-offset"])
            plain = s3.get_object(
                Bucket=bucket, Key=f"{format}.tar", Range=f"bytes={start}-{start + len(members[name]) - 1}"
            )
            assert plain["Body"].read() == members[name]


def test_member_list_pages_and_groups(s3, ask, bucket):
    members = samples(120)
    tar = make_tar(members)
    s3.put_object(Bucket=bucket, Key="s.tar", Body=tar)
    seen, page = [], None
    while True:
        query = {"granary-members": "", "max-members": "50"} | ({"page": page} if page else {})
        got = ask("GET", f"/{bucket}/s.tar", query).json()
        assert got["total"] == len(members) and len(got["members"]) <= 50
        seen += got["members"]
        page = got["next"]
        if page is None:
            break
    with tarfile.open(fileobj=io.BytesIO(tar)) as reference:
        assert [(m["name"], m["offset"], m["size"]) for m in seen] == [
            (info.name, info.offset_data, info.size) for info in reference
        ]
    assert (seen[0]["sample"], seen[0]["field"]) == ("train/000000", "jpg")
    assert ask("GET", f"/{bucket}/s.tar", {"granary-members": "", "max-members": "0"}).status == 400


def test_member_ranges_conditions_head_and_checksum(s3, ask, bucket):
    data = Content(3, 200_000).data()
    s3.put_object(Bucket=bucket, Key="s.tar", Body=make_tar({"a": b"first", "b.bin": data}))
    path, query = f"/{bucket}/s.tar", {"granary-member": "b.bin"}
    whole = ask("GET", path, query, headers={"x-amz-checksum-mode": "ENABLED"})
    etag = whole.headers["etag"]
    import awscrt.checksums as crt

    crc = crt.crc64nvme(data)
    assert whole.headers["x-amz-checksum-crc64nvme"] == base64.b64encode(crc.to_bytes(8, "big")).decode()
    for spec, part in {"bytes=0-9": data[:10], "bytes=199990-": data[-10:], "bytes=-7": data[-7:],
                       "bytes=5-999999999": data[5:]}.items():  # fmt: skip
        got = ask("GET", path, query, headers={"range": spec})
        assert (got.status, got.body) == (206, part)
        assert got.headers["content-range"].endswith(f"/{len(data)}") and got.headers["etag"] == etag
    # A range never reaches into the next member, nor begins behind the end.
    got = ask("GET", path, {"granary-member": "a"}, headers={"range": "bytes=3-100"})
    assert (got.status, got.body) == (206, b"st")
    assert (lambda a: (a.status, a.code))(ask("GET", path, query, headers={"range": "bytes=200000-"})) == (416, "InvalidRange")
    assert ask("GET", path, query, headers={"if-none-match": etag}).status == 304
    assert ask("GET", path, query, headers={"if-match": '"other"'}).status == 412
    assert ask("GET", path, query, headers={"if-match": etag}).status == 200
    head = ask("HEAD", path, query)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(data)))
    other = ask("HEAD", path, {"granary-member": "a"})
    assert other.headers["etag"] != etag
    # New bytes under the key: another ETag, and the new members at once.
    s3.put_object(Bucket=bucket, Key="s.tar", Body=make_tar({"b.bin": b"new"}))
    new = ask("GET", path, query)
    assert (new.body, new.headers["etag"] != etag) == (b"new", True)
    assert ask("GET", path, {"granary-member": "a"}).code == "NoSuchMember"


def test_members_of_versions(s3, ask, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    old = s3.put_object(Bucket=bucket, Key="s.tar", Body=make_tar({"a": b"old"}))["VersionId"]
    s3.put_object(Bucket=bucket, Key="s.tar", Body=make_tar({"a": b"newer"}))
    assert ask("GET", f"/{bucket}/s.tar", {"granary-member": "a", "versionId": old}).body == b"old"
    got = ask("GET", f"/{bucket}/s.tar", {"granary-member": "a"})
    assert got.body == b"newer" and got.headers["x-amz-version-id"] != old
    s3.delete_object(Bucket=bucket, Key="s.tar")
    assert ask("GET", f"/{bucket}/s.tar", {"granary-member": "a"}).code == "NoSuchKey"


def raw_header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


BAD = {
    "not a tar file": (b"this is no tar file" * 100, "no tar header"),
    "empty": (b"", "truncated"),
    "cut in a member": (make_tar({"a": bytes(5000)})[:2048], "truncated"),
    "cut before the end": (make_tar({"a": b"x"})[:1024], "truncated"),
    "flipped header": (b"\x01" + make_tar({"a": b"x"})[1:], "checksum"),
    "absolute": (raw_header(b"/etc/passwd", b"0") + bytes(1024), "absolute"),
    "dot dot": (raw_header(b"a/../../b", b"0") + bytes(1024), "`..`"),
    "huge member": (raw_header(b"a", b"77777777777") + bytes(1024), "truncated"),
    "no number": (raw_header(b"a", b"12x") + bytes(1024), "not a number"),
    "sparse": (raw_header(b"a", b"0", b"S") + bytes(1024), "sparse"),
    "bad pax": (raw_header(b"p", b"7", b"x") + b"9 a=b\nx".ljust(512, b"\0") + bytes(1024), "malformed"),
    "not utf-8": (raw_header(b"\xff\xfe", b"0") + bytes(1024), "UTF-8"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_shards_say_what_is_wrong(s3, ask, bucket, what):
    body, word = BAD[what]
    s3.put_object(Bucket=bucket, Key="bad.tar", Body=body)
    for query in ({"granary-member": "a"}, {"granary-members": ""}):
        got = ask("GET", f"/{bucket}/bad.tar", query)
        assert (got.status, got.code) == (422, "InvalidShard"), got.body
        assert word in got.body.decode().replace("&#96;", "`"), got.body
    # The object itself is as readable as ever.
    assert s3.get_object(Bucket=bucket, Key="bad.tar")["Body"].read() == body


def test_double_names_are_refused_but_listed(s3, ask, bucket):
    s3.put_object(Bucket=bucket, Key="s.tar", Body=make_tar([("a", b"1"), ("b", b"x"), ("./a", b"2")]))
    got = ask("GET", f"/{bucket}/s.tar", {"granary-member": "a"})
    assert (got.status, got.code) == (409, "AmbiguousMember")
    assert [m["name"] for m in ask("GET", f"/{bucket}/s.tar", {"granary-members": ""}).json()["members"]] == ["a", "b", "a"]
    assert ask("GET", f"/{bucket}/s.tar", {"granary-member": "./b"}).body == b"x"


def test_members_need_a_signature(s3, ask, server, bucket):
    s3.put_object(Bucket=bucket, Key="s.tar", Body=make_tar({"a": b"secret"}))
    path, query = f"/{bucket}/s.tar", {"granary-member": "a"}
    assert ask("GET", path, query, signed=False).status == 403
    assert Signed(server.endpoint, secret_key="x" * 40)("GET", path, query).code == "SignatureDoesNotMatch"
    assert Signed(server.endpoint, access_key="NOBODY")("GET", path, query).code == "InvalidAccessKeyId"
    url = ask.presigned(path, **query)
    assert urllib.request.urlopen(url).read() == b"secret"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url.replace("granary-member=a", "granary-member=b"))
    assert refused.value.code == 403
    assert ask.batch(bucket, [{"key": "s.tar"}]).status == 200
    assert Signed(server.endpoint, secret_key="x" * 40).batch(bucket, [{"key": "s.tar"}]).status == 403


def test_endpoints_say_what_they_take(s3, ask, bucket):
    s3.put_object(Bucket=bucket, Key="s.tar", Body=make_tar({"a": b"x"}))
    for method, path, query, status in [
        ("GET", f"/{bucket}/s.tar", {"granary-nothing": ""}, 400),
        ("GET", f"/{bucket}/s.tar", {"granary-member": "a", "granary-members": ""}, 400),
        ("GET", f"/{bucket}", {"granary-member": "a"}, 400),
        ("PUT", f"/{bucket}/s.tar", {"granary-member": "a"}, 405),
        ("DELETE", f"/{bucket}/s.tar", {"granary-member": "a"}, 405),
        ("GET", f"/{bucket}", {"granary-batch": ""}, 405),
        ("POST", f"/{bucket}/s.tar", {"granary-batch": ""}, 400),
        ("GET", "/no-such-bucket-at-all/s.tar", {"granary-member": "a"}, 404),
        ("GET", f"/{bucket}/nothing.tar", {"granary-member": "a"}, 404),
    ]:
        got = ask(method, path, query)
        assert got.status == status, (method, path, query, got.body)
    assert s3.get_object(Bucket=bucket, Key="s.tar")["ContentLength"] > 0


# --- batches -----------------------------------------------------------------------------------------------


def test_batch_in_the_order_asked(s3, ask, bucket):
    members = samples(64)
    s3.put_object(Bucket=bucket, Key="s.tar", Body=make_tar(members))
    objects = {f"o/{n}": Content(n, size).data() for n, size in enumerate([0, 1, 511, 512, 513, 20_000, 65_536, 1_500_000, 7_000_001])}
    for key, data in objects.items():
        s3.put_object(Bucket=bucket, Key=key, Body=data)
    wanted: list[tuple[dict, str, bytes]] = []
    for key in reversed(objects):
        wanted.append(({"key": key}, key, objects[key]))
    for name in list(members)[::5]:
        wanted.append(({"key": "s.tar", "member": name}, name, members[name]))
    wanted.append(({"key": "o/7", "range": "bytes=100-199", "as": "cut/\u00fc" + "n" * 300}, "cut/\u00fc" + "n" * 300, objects["o/7"][100:200]))
    wanted.append(({"key": "s.tar", "member": "train/000001.jpg", "range": "bytes=-5", "as": "tail"}, "tail", members["train/000001.jpg"][-5:]))
    wanted.append(({"key": "o/5"}, "o/5", objects["o/5"]))
    got = ask.batch(bucket, [item for item, *_ in wanted])
    assert (got.status, got.cut, got.headers["content-type"]) == (200, False, "application/x-tar")
    assert got.headers["x-granary-batch-items"] == str(len(wanted))
    assert [(info.name, data) for info, data in entries(got.body)] == [(name, data) for _, name, data in wanted]


def test_batch_marks_what_is_missing(s3, ask, bucket):
    s3.put_object(Bucket=bucket, Key="there", Body=b"x")
    s3.put_object(Bucket=bucket, Key="s.tar", Body=make_tar({"a": b"x"}))
    s3.put_object(Bucket=bucket, Key="bad.tar", Body=b"no")
    items = [{"key": "gone"}, {"key": "there"}, {"key": "s.tar", "member": "z"}, {"key": "bad.tar", "member": "a"},
             {"key": "there", "range": "bytes=5-"}, {"key": "there"}]  # fmt: skip
    got = entries(ask.batch(bucket, items, info=True).body)
    assert [info.pax_headers.get("GRANARY.error") for info, _ in got] == [
        "NoSuchKey", None, "NoSuchMember", "InvalidShard", "InvalidRange", None,
    ]  # fmt: skip
    assert [data for _, data in got] == [b"", b"x", b"", b"", b"", b"x"]
    etag = s3.head_object(Bucket=bucket, Key="there")["ETag"].strip('"')
    assert (got[1][0].pax_headers["GRANARY.key"], got[1][0].pax_headers["GRANARY.etag"]) == ("there", etag)
    for missing, code in [(items[0], "NoSuchKey"), (items[2], "NoSuchMember"), (items[4], "InvalidRange")]:
        refused = ask.batch(bucket, [{"key": "there"}] * 40 + [missing], on_missing="fail")
        assert refused.code == code and b"item 40" in refused.body, refused.body
    assert len(entries(ask.batch(bucket, [{"key": "there"}] * 40, on_missing="fail").body)) == 40


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b'{"items": []}', b'{"items": [{}]}', b'{"items": [{"key": ""}]}', b'{"items": [{"key": 1}]}',
    b'{"items": [{"key": "a", "range": "lines=1"}]}', b'{"items": [{"key": "a", "version": "no"}]}',
    b'{"items": [{"key": "a", "surprise": 1}]}', b'{"items": [{"key": "a"}], "on_missing": "maybe"}',
    b'{"items": [{"key": "a", "as": ""}]}', b'{"items": [' + b'{"key": "a"},' * 10_000 + b'{"key": "a"}]}',
])  # fmt: skip
def test_batch_lists_that_are_wrong(ask, bucket, body):
    got = ask("POST", f"/{bucket}", {"granary-batch": ""}, body)
    assert got.status == 400, got.body
    assert got.code in ("InvalidRequest", "InvalidArgument")


def test_batch_list_too_long(ask, bucket):
    got = ask("POST", f"/{bucket}", {"granary-batch": ""}, b'{"items": [' + b" " * (5 << 20) + b'{"key": "a"}]}')
    assert (got.status, got.code) == (400, "MaxMessageLengthExceeded")


def test_batches_while_the_shard_is_overwritten(s3, ask, bucket):
    """Each answer is one state of the shard or another, never a mixture."""
    states = [make_tar({"pad": bytes(300 * n), "a": str(n).encode() * 30_000}) for n in range(1, 4)]
    s3.put_object(Bucket=bucket, Key="s.tar", Body=states[0])
    stop = threading.Event()

    def overwrite():
        n = 0
        while not stop.is_set():
            n += 1
            s3.put_object(Bucket=bucket, Key="s.tar", Body=states[n % 3])

    writer = threading.Thread(target=overwrite)
    writer.start()
    try:
        seen = set()
        for _ in range(30):
            got = ask.batch(bucket, [{"key": "s.tar", "member": "a"}] * 3)
            if got.status == 503:
                continue
            for info, data in entries(got.body):
                assert data in {str(n).encode() * 30_000 for n in range(1, 4)}
                seen.add(data[:1])
        assert seen
    finally:
        stop.set()
        writer.join()


# --- checkpoints -------------------------------------------------------------------------------------------


def latest(ask, bucket, run, **query):
    return ask("GET", f"/{bucket}/{run}", {"granary-latest": "", **query})


def test_latest_is_the_newest_complete(s3, ask, bucket):
    def put(key, body=b"x"):
        s3.put_object(Bucket=bucket, Key=key, Body=body)

    got = latest(ask, bucket, "run/")
    assert (got.status, got.code) == (404, "NoSuchCheckpoint")
    for step in (5, 100, 20):
        put(f"run/step_{step}/__0_0.distcp")
        put(f"run/step_{step}/.metadata")
    put("run/step_200/__0_0.distcp")  # being written
    put("run/config-9999.json")
    put("run/notes.txt")
    got = latest(ask, bucket, "run/").json()
    assert (got["step"], got["key"], got["kind"], got["marker"]) == (100, "run/step_100/", "folder", "run/step_100/.metadata")
    put("run/step_200/.metadata")
    assert latest(ask, bucket, "run/").json()["step"] == 200
    s3.delete_object(Bucket=bucket, Key="run/step_200/.metadata")
    assert latest(ask, bucket, "run/").json()["step"] == 100
    put("run/epoch=1-step=150.ckpt", b"123")
    got = latest(ask, bucket, "run/").json()
    assert (got["step"], got["kind"], got["size"]) == (150, "file", 3)
    put("run/step_300/DONE")
    assert latest(ask, bucket, "run/").json()["step"] == 150
    assert latest(ask, bucket, "run/", marker="DONE").json()["step"] == 300
    assert ask("GET", f"/{bucket}", {"granary-latest": "", "prefix": "run/"}).json()["step"] == 150
    assert latest(ask, bucket, "run").status == 400
    put("other/step_1/part")
    got = latest(ask, bucket, "other/")
    assert got.code == "NoSuchCheckpoint" and b"without a commit marker" in got.body


def test_latest_sees_past_a_page(s3, ask, bucket):
    for step in range(1, 1105):
        s3.put_object(Bucket=bucket, Key=f"run/model_{step}.pt", Body=b"")
    assert latest(ask, bucket, "run/").json()["step"] == 1104
