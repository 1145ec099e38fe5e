"""Buckets that read through to another S3 endpoint: another Granary, and a server that lies."""

from __future__ import annotations

import concurrent.futures
import email.utils
import hashlib
import http.client
import http.server
import json
import threading
import time

import botocore.exceptions
import pytest

from tests.harness import Server, boto3_client
from tests.harness.server import free_port

from .test_boto3_core import error

MIB = 1 << 20
SECRET = "an/upstream+secret-of-this-test-alone-0123"
ACCESS = "GRANARYUPSTREAMUSER1"
PATIENCE_SECONDS = 120
ENV = {"GRANARY_AUDIT_FLUSH_INTERVAL_MS": "20"}


def wait_until(condition, what="it did not happen"):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def body_of(seed: int, size: int) -> bytes:
    block = hashlib.sha512(str(seed).encode()).digest()
    return (block * (size // len(block) + 1))[:size]


@pytest.fixture(scope="module")
def far():
    """The upstream: another Granary, with a user of its own for the near one."""
    with Server(preset=None, env=ENV) as running:
        running.start()
        secret = running.data / "upstream-secret"
        secret.write_text(SECRET + "\n")
        for line in (
            ("user", "create", "near"),
            ("key", "create", "--user", "near", "--access-key", ACCESS, "--secret-key-file", str(secret)),
            ("policy", "attach", "readwrite", "--user", "near"),
        ):
            done = running.cli(*line)
            assert done.returncode == 0, done.stderr
        yield running


@pytest.fixture(scope="module")
def near():
    with Server(preset=None, env=ENV) as running:
        running.start()
        yield running


@pytest.fixture
def theirs(far):
    return boto3_client(far.endpoint)


@pytest.fixture
def ours(near):
    return boto3_client(near.endpoint)


@pytest.fixture
def keys(tmp_path):
    """The files with the keys for the upstream."""
    (tmp_path / "access").write_text(ACCESS + "\n")
    (tmp_path / "secret").write_text(SECRET + "\n")
    return "--access-key-file", str(tmp_path / "access"), "--secret-key-file", str(tmp_path / "secret")


def upstream(server, *arguments, ok=True):
    done = server.cli("bucket", "upstream", *arguments)
    assert (done.returncode == 0) == ok, done.stderr + done.stdout
    return done.stdout if ok else done.stderr


def shown(server, bucket):
    return json.loads(upstream(server, "show", bucket, "--json"))


def counted(server, bucket):
    return shown(server, bucket)["since_start"]


def versions(s3, bucket):
    """What lies here: listings of versions know nothing of an upstream."""
    return [v["Key"] for v in s3.list_object_versions(Bucket=bucket).get("Versions", [])]


@pytest.fixture
def pair(near, far, ours, theirs, keys, bucket_name):
    """A bucket here that reads through to one of the same name there, under `p/`."""
    theirs.create_bucket(Bucket=bucket_name)
    ours.create_bucket(Bucket=bucket_name)
    upstream(near, "set", bucket_name, "--endpoint", far.endpoint, "--bucket", bucket_name, "--prefix", "p/", *keys)
    return bucket_name


def read(s3, bucket, key, **more):
    return s3.get_object(Bucket=bucket, Key=key, **more)["Body"].read()


# --- reading through -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5000, 300_000, 9 * MIB + 17])
def test_what_is_there_is_fetched_and_stays(pair, far, near, ours, theirs, size):
    body = body_of(size, size)
    put = theirs.put_object(
        Bucket=pair, Key="p/dir/ü k+1", Body=body, ContentType="text/x-special", CacheControl="max-age=7",
        Metadata={"colour": "blue", "shape": "round"},
    )  # fmt: skip
    there = theirs.head_object(Bucket=pair, Key="p/dir/ü k+1")
    before = ours.head_object(Bucket=pair, Key="dir/ü k+1")
    assert versions(ours, pair) == []
    got = ours.get_object(Bucket=pair, Key="dir/ü k+1")
    assert got["Body"].read() == body
    after = ours.head_object(Bucket=pair, Key="dir/ü k+1")
    for answer in (before, got, after):
        assert answer["ETag"] == put["ETag"]
        assert answer["LastModified"] == there["LastModified"]
        assert answer["ContentType"] == "text/x-special"
        assert answer["CacheControl"] == "max-age=7"
        assert answer["Metadata"] == {"colour": "blue", "shape": "round"}
    assert after["ResponseMetadata"]["HTTPHeaders"]["x-granary-verified"] == "checksum"
    assert versions(ours, pair) == ["dir/ü k+1"]
    # From here on the upstream is not needed.
    theirs.delete_object(Bucket=pair, Key="p/dir/ü k+1")
    assert read(ours, pair, "dir/ü k+1") == body
    stats = counted(near, pair)
    assert (stats["fetched"], stats["fetched_bytes"], stats["errors"]) == (1, size, 0)
    assert error(lambda: read(ours, pair, "nothing")) == (404, "NoSuchKey")
    assert error(lambda: ours.head_object(Bucket=pair, Key="nothing"))[0] == 404
    page = near.admin_get("/metrics")[1]
    assert f'granary_upstream_events_total{{bucket="{pair}",event="fetched_bytes"}} {size}' in page or size == 0


def test_ranges_parts_copies_and_members_read_through(pair, ours, theirs):
    body = body_of(1, 6 * MIB)
    upload = theirs.create_multipart_upload(Bucket=pair, Key="p/parts")["UploadId"]
    parts = []
    for number, part in enumerate((body[: 5 * MIB], body[5 * MIB :]), 1):
        made = theirs.upload_part(Bucket=pair, Key="p/parts", UploadId=upload, PartNumber=number, Body=part)
        parts.append({"PartNumber": number, "ETag": made["ETag"]})
    done = theirs.complete_multipart_upload(Bucket=pair, Key="p/parts", UploadId=upload, MultipartUpload={"Parts": parts})
    ranged = ours.get_object(Bucket=pair, Key="parts", Range="bytes=5242870-5242889")
    assert ranged["Body"].read() == body[5242870:5242890]
    assert ranged["ETag"] == done["ETag"], "as it is there, with the number of its parts"
    theirs.put_object(Bucket=pair, Key="p/source", Body=b"to be copied")
    ours.copy_object(Bucket=pair, Key="own", CopySource={"Bucket": pair, "Key": "source"})
    assert read(ours, pair, "own") == b"to be copied"
    assert "x-granary-verified" not in ours.head_object(Bucket=pair, Key="own")["ResponseMetadata"]["HTTPHeaders"]
    not_modified = lambda: ours.get_object(Bucket=pair, Key="source", IfNoneMatch=ours.head_object(Bucket=pair, Key="source")["ETag"])  # noqa: E731
    assert error(not_modified)[0] == 304


def test_listings_are_both_in_order(pair, ours, theirs):
    for key in ("a", "b/1", "b/2", "d/ü +&", "z"):
        theirs.put_object(Bucket=pair, Key=f"p/{key}", Body=b"theirs")
    theirs.put_object(Bucket=pair, Key="elsewhere", Body=b"x")
    for key in ("b/2", "b/3", "c", "e/1"):
        ours.put_object(Bucket=pair, Key=key, Body=b"ours!")
    expected = ["a", "b/1", "b/2", "b/3", "c", "d/ü +&", "e/1", "z"]
    for size in (1, 2, 3, 1000):
        pages = ours.get_paginator("list_objects_v2").paginate(Bucket=pair, PaginationConfig={"PageSize": size})
        found = [o for page in pages for o in page.get("Contents", [])]
        assert [o["Key"] for o in found] == expected, size
        assert {o["Key"]: o["Size"] for o in found}["b/2"] == 5, "what is here counts"
        pages = ours.get_paginator("list_objects").paginate(Bucket=pair, Delimiter="/", PaginationConfig={"PageSize": size})
        pages = list(pages)
        assert [o["Key"] for page in pages for o in page.get("Contents", [])] == ["a", "c", "z"]
        assert [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])] == ["b/", "d/", "e/"]
    found = ours.list_objects_v2(Bucket=pair, Prefix="b/", StartAfter="b/1")["Contents"]
    assert [o["Key"] for o in found] == ["b/2", "b/3"]


def test_an_upstream_that_is_away_is_a_clear_error_and_what_is_here_is_served(near, ours, keys, bucket_name, tmp_path):
    ours.create_bucket(Bucket=bucket_name)
    ours.put_object(Bucket=bucket_name, Key="own", Body=b"ours")
    nobody = f"http://127.0.0.1:{free_port()}"
    upstream(near, "set", bucket_name, "--endpoint", nobody, "--bucket", "there", *keys)
    assert read(ours, bucket_name, "own") == b"ours"
    for call in (
        lambda: read(ours, bucket_name, "k"),
        lambda: ours.list_objects_v2(Bucket=bucket_name),
    ):
        with pytest.raises(botocore.exceptions.ClientError) as raised:
            call()
        answer = raised.value.response
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 503
        assert answer["Error"]["Code"] == "ServiceUnavailable"
        assert bucket_name in answer["Error"]["Message"]
        assert "127.0.0.1" not in answer["Error"]["Message"], "where it is, the operator knows"
    assert counted(near, bucket_name)["errors"] >= 2


def test_wrong_keys_and_wrong_buckets_are_no_missing_keys(near, far, ours, theirs, keys, bucket_name, tmp_path):
    ours.create_bucket(Bucket=bucket_name)
    upstream(near, "set", bucket_name, "--endpoint", far.endpoint, "--bucket", "no-such-bucket", *keys)
    assert error(lambda: read(ours, bucket_name, "k")) == (502, "UpstreamError")
    assert error(lambda: ours.head_object(Bucket=bucket_name, Key="k"))[0] == 502
    (tmp_path / "secret").write_text("a-wrong-secret-of-the-right-length-01234\n")
    upstream(near, "set", bucket_name, "--endpoint", far.endpoint, "--bucket", bucket_name, *keys)
    assert error(lambda: read(ours, bucket_name, "k")) == (502, "UpstreamError")
    assert error(lambda: ours.list_objects_v2(Bucket=bucket_name)) == (502, "UpstreamError")


def test_settings_that_cannot_be_are_refused(near, ours, bucket_name):
    ours.create_bucket(Bucket=bucket_name)
    there = ("--bucket", "there")
    for arguments, why in (
        (("--endpoint", "http://s3.example", *there), "https://"),
        (("--endpoint", "https://user:pass@s3.example", *there), "without path, query or credentials"),
        (("--endpoint", "https://s3.example", "--bucket", "a/b"), "upstream's bucket"),
        (("--endpoint", "https://s3.example", *there, "--virtual-host", "--path-style"), "cannot be used with"),
        (("--endpoint", "https://s3.example", *there, "--ca-file", "/dev/null/x"), "/dev/null/x"),
    ):
        assert why in upstream(near, "set", bucket_name, *arguments, ok=False), arguments
    assert "no such bucket" in upstream(near, "set", "not-there", "--endpoint", "https://s3.example", *there, ok=False)
    assert shown(near, bucket_name)["upstream"] is None


def test_the_secret_is_nowhere_and_events_name_the_upstream(pair, near, far, ours, theirs):
    theirs.put_object(Bucket=pair, Key="p/k", Body=b"x" * 200_000)
    read(ours, pair, "k")
    error(lambda: read(ours, pair, "nothing"))
    said = upstream(near, "show", pair) + json.dumps(shown(near, pair)) + near.cli("status", "--json").stdout

    def events():
        return near.cli("audit", "query", "--since", "1h", "--json").stdout

    wait_until(lambda: "FetchObject" in events() and "AdminUpstreamSet" in events(), "the events are in the trail")
    trail = events()
    assert f"{far.endpoint}/{pair}/p/" in trail, "which upstream"
    for text in (said, trail, near.log(), near.admin_get("/metrics")[1]):
        assert SECRET not in text
    assert ACCESS in said, "the access key is no secret"
    for file in near.data.rglob("*"):
        if file.is_file() and file.stat().st_size < 64 * MIB and not file.name.startswith("segment"):
            assert SECRET.encode() not in file.read_bytes(), file


def test_an_upstream_outside_of_the_pins_is_refused():
    with Server(preset=None, env=ENV | {"GRANARY_NODE_REGION": "eu-home-1"}) as server:
        server.start()
        s3 = boto3_client(server.endpoint, region="eu-home-1")
        s3.create_bucket(Bucket="pinned", CreateBucketConfiguration={"LocationConstraint": "eu-home-1"})
        there = ("set", "pinned", "--endpoint", "https://s3.example", "--bucket", "there")
        why = upstream(server, *there, "--region", "us-east-1", ok=False)
        assert "us-east-1" in why and "eu-home-1" in why, why
        why = upstream(server, *there, "--region", "eu-home-1", "--regions", "eu-home-1,us-east-1", ok=False)
        assert "us-east-1" in why, why
        upstream(server, *there, "--region", "us-east-1", "--regions", "eu-home-1")
        assert shown(server, "pinned")["upstream"]["regions"] == ["eu-home-1"]


# --- an upstream that lies -----------------------------------------------------------------------------------------


class Liar:
    """Serves one body under every key, honestly or not, and counts."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.mode = "honest"
        self.gets = 0
        self.frames = threading.Event()
        self.frames.set()
        liar = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def head(self, length, **more):
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                etag = hashlib.md5(liar.body if liar.mode != "etag" else b"other").hexdigest()
                if liar.mode == "multipart":
                    etag += "-3"
                if liar.mode != "no-etag":
                    self.send_header("ETag", f'"{etag}"')
                self.send_header("Last-Modified", email.utils.formatdate(1_700_000_000, usegmt=True))
                for name, value in more.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()

            def do_HEAD(self):
                self.head(len(liar.body))

            def do_GET(self):
                liar.gets += 1
                if "list-type" in self.path:
                    return self.listing()
                mode, body = liar.mode, liar.body
                if mode == "redirect":
                    return self.plain(301, b"", Location=f"http://127.0.0.1:{liar.port}/elsewhere")
                if mode == "500":
                    return self.plain(500, b"<html>oops</html>")
                if mode == "html-404":
                    return self.plain(404, b"<html>not found</html>")
                if mode == "chunked":
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.send_header("ETag", '"x"')
                    self.end_headers()
                    self.wfile.write(b"5\r\nhello\r\n0\r\n\r\n")
                    return None
                more = {}
                if mode == "checksum":
                    more["x_amz_checksum_crc32"] = "AAAAAA=="
                self.head(len(body) + (7 if mode == "short" else 0), **more)
                if mode == "flipped":
                    body = bytes([body[0] ^ 1]) + body[1:]
                half = len(body) // 2
                self.wfile.write(body[:half])
                self.wfile.flush()
                liar.frames.wait(PATIENCE_SECONDS)
                if mode == "break":
                    self.close_connection = True
                    return None
                self.wfile.write(body[half:])
                if mode == "short":
                    self.close_connection = True
                return None

            def listing(self):
                if liar.mode == "cut-listing":
                    return self.plain(200, b"<ListBucketResult><IsTruncated>false</IsTruncated>")
                if liar.mode == "bomb-listing":
                    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><ListBucketResult>&b;</ListBucketResult>'
                    return self.plain(200, bomb)
                if liar.mode == "endless-listing":
                    return self.plain(200, b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>")
                return self.plain(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")

            def plain(self, status, body, **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.frames.set()
        self.server.shutdown()


@pytest.fixture(params=[3000, 400_000, 5 * MIB], ids=["inline", "striped", "large"])
def liar(request):
    running = Liar(body_of(2, request.param))
    yield running
    running.close()


@pytest.fixture
def lied_to(near, ours, bucket_name, liar):
    ours.create_bucket(Bucket=bucket_name)
    upstream(near, "set", bucket_name, "--endpoint", liar.url, "--bucket", "there")
    return bucket_name


def test_nothing_that_does_not_hold_is_served_whole_or_kept(lied_to, liar, near, ours):
    for mode in ("short", "flipped", "etag", "no-etag", "checksum", "break", "redirect", "500", "html-404", "chunked"):
        liar.mode = mode
        before = liar.gets
        try:
            got = ours.get_object(Bucket=lied_to, Key="k")
        except botocore.exceptions.ClientError as refused:
            status, code = refused.response["ResponseMetadata"]["HTTPStatusCode"], refused.response["Error"]["Code"]
            assert (status, code) in ((502, "UpstreamError"), (503, "ServiceUnavailable")), mode
            assert lied_to in refused.response["Error"]["Message"], mode
        else:
            assert len(liar.body) >= MIB, f"{mode}: only what is large is given while it comes"
            with pytest.raises((botocore.exceptions.BotoCoreError, http.client.HTTPException, OSError)):
                got["Body"].read()
        assert liar.gets == before + 1, f"{mode}: no redirect is followed, nothing is asked twice"
        assert versions(ours, lied_to) == [], mode
    assert counted(near, lied_to)["lies"] >= 4
    assert counted(near, lied_to)["fetched"] == 0
    liar.mode = "multipart"
    assert read(ours, lied_to, "parts") == liar.body
    head = ours.head_object(Bucket=lied_to, Key="parts")["ResponseMetadata"]["HTTPHeaders"]
    assert head["x-granary-verified"] == "length"
    liar.mode = "honest"
    assert read(ours, lied_to, "k") == liar.body
    head = ours.head_object(Bucket=lied_to, Key="k")["ResponseMetadata"]["HTTPHeaders"]
    assert head["x-granary-verified"] == "md5"


def test_listings_that_do_not_hold_are_errors(lied_to, liar, ours):
    assert "Contents" not in ours.list_objects_v2(Bucket=lied_to)
    for mode in ("cut-listing", "bomb-listing", "endless-listing"):
        liar.mode = mode
        assert error(lambda: ours.list_objects_v2(Bucket=lied_to)) == (502, "UpstreamError"), mode


def test_many_who_ask_at_once_fetch_once(lied_to, liar, near):
    liar.frames.clear()
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        reads = [pool.submit(read, boto3_client(near.endpoint), lied_to, "k") for _ in range(20)]
        wait_until(lambda: liar.gets == 1)
        wait_until(lambda: counted(near, lied_to)["misses"] == 20, "all of them wait")
        liar.frames.set()
        assert all(done.result() == liar.body for done in reads)
    assert liar.gets == 1


def test_kill_in_the_middle_of_a_fetch_leaves_nothing_half_done(liar):
    with Server(preset=None) as server:
        server.start()
        s3 = boto3_client(server.endpoint)
        s3.create_bucket(Bucket="data")
        upstream(server, "set", "data", "--endpoint", liar.url, "--bucket", "there")
        liar.frames.clear()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read, s3, "data", "k")
            wait_until(lambda: liar.gets == 1)
            server.kill()
            assert reading.exception() is not None
        liar.frames.set()
        server.start()
        assert versions(s3, "data") == []
        assert read(s3, "data", "k") == liar.body
        assert (liar.gets, versions(s3, "data")) == (2, ["k"])
        server.kill()
        server.start()
        assert read(s3, "data", "k") == liar.body
        assert liar.gets == 2


def test_copies_are_checked_when_asked_for(lied_to, liar, near, ours):
    upstream(near, "set", lied_to, "--endpoint", liar.url, "--bucket", "there", "--revalidate", "0")
    assert read(ours, lied_to, "k") == liar.body
    liar.body = body_of(3, len(liar.body) + 5)
    assert read(ours, lied_to, "k") == liar.body
    liar.mode = "500"
    assert error(lambda: read(ours, lied_to, "k")) == (503, "ServiceUnavailable")


# --- write-back ------------------------------------------------------------------------------------------------------


def test_changes_reach_the_upstream_also_after_an_outage(far, keys):
    there = boto3_client(far.endpoint)
    bucket = f"back-{free_port()}"
    there.create_bucket(Bucket=bucket)
    with Server(preset=None, env=ENV) as server:
        server.start()
        s3 = boto3_client(server.endpoint)
        s3.create_bucket(Bucket="data")
        upstream(server, "set", "data", "--endpoint", far.endpoint, "--bucket", bucket, "--write-back", *keys)
        large = body_of(4, 9 * MIB)
        s3.put_object(Bucket="data", Key="a", Body=b"1", ContentType="text/x-a", Metadata={"colour": "red"})
        s3.put_object(Bucket="data", Key="large", Body=large)
        upload = s3.create_multipart_upload(Bucket="data", Key="parts")["UploadId"]
        part = s3.upload_part(Bucket="data", Key="parts", UploadId=upload, PartNumber=1, Body=b"of one part")
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        s3.complete_multipart_upload(Bucket="data", Key="parts", UploadId=upload, MultipartUpload=parts)
        wait_until(lambda: shown(server, "data")["pending"] == 0)
        head = there.head_object(Bucket=bucket, Key="a")
        assert (head["ContentType"], head["Metadata"]) == ("text/x-a", {"colour": "red"})
        assert read(there, bucket, "large") == large
        assert read(there, bucket, "parts") == b"of one part"

        far.stop()
        for n in range(30):
            s3.put_object(Bucket="data", Key="a", Body=str(n).encode())
        s3.delete_object(Bucket="data", Key="large")
        assert error(lambda: s3.get_object(Bucket="data", Key="large")) == (404, "NoSuchKey"), "at once"
        assert shown(server, "data")["pending"] >= 31
        assert "granary_upstream_pending{bucket=\"data\"} " in server.admin_get("/metrics")[1]
        why = upstream(server, "clear", "data", ok=False)
        assert "wait to be written" in why
        s3.delete_object(Bucket="data", Key="a")
        s3.put_object(Bucket="data", Key="a", Body=b"the last")
        # What waits survives a crash.
        server.kill()
        server.start()
        assert shown(server, "data")["pending"] >= 31
        far.start()
        wait_until(lambda: shown(server, "data")["pending"] == 0)
        assert read(there, bucket, "a") == b"the last"
        assert error(lambda: there.head_object(Bucket=bucket, Key="large"))[0] == 404
        assert error(lambda: s3.get_object(Bucket="data", Key="large")) == (404, "NoSuchKey")
        assert "taken away" in upstream(server, "clear", "data")
        assert shown(server, "data")["upstream"] is None
        assert read(s3, "data", "a") == b"the last"
