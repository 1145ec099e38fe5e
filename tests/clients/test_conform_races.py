"""Many clients at once on the same keys: of any number of writers with one condition, one wins; nobody sees a state that never was."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness import Content, RawClient
from tests.harness.raw import NAMESPACE

CLIENTS = 64
MIB = 1024 * 1024


@pytest.fixture
def crowd(server):
    """`crowd(work)` runs `work(client, number)` on 64 connections that begin together; their results in order."""
    clients = [RawClient("127.0.0.1", server.port) for _ in range(CLIENTS)]
    start = threading.Barrier(CLIENTS)

    def one(work, number):
        start.wait()
        return work(clients[number], number)

    def run(work):
        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(lambda number: one(work, number), range(CLIENTS)))

    yield run
    [client.close() for client in clients]


def winners(replies, lost: set[tuple[int, str]]) -> list[int]:
    """Who was answered 2xx; everybody else must have lost in one of these ways."""
    won = [number for number, reply in enumerate(replies) if reply.status < 300]
    for reply in replies:
        assert reply.status < 300 or (reply.status, reply.code) in lost, (reply.status, reply.code)
    return won


FAILED = (412, "PreconditionFailed")


@pytest.mark.parametrize("size", [10, 40_000])
def test_one_creates(crowd, raw, bucket, size):
    for turn in range(3):
        replies = crowd(lambda client, n: client.put(bucket, f"k{turn}", Content(n, size).data(), if_none_match="*"))
        [winner] = winners(replies, {FAILED})
        assert raw.get(bucket, f"k{turn}").body == Content(winner, size).data()


def test_one_replaces_what_it_read(crowd, raw, bucket):
    """A counter that everybody adds to by If-Match: no addition is lost, each round has one winner."""
    etag = raw.put(bucket, "counter", b"0").etag
    for turn in range(5):
        replies = crowd(lambda client, n: client.put(bucket, "counter", f"{turn + 1} by {n}".encode(), if_match=etag))
        [winner] = winners(replies, {FAILED})
        assert raw.get(bucket, "counter").body == f"{turn + 1} by {winner}".encode()
        etag = replies[winner].etag


def test_one_completes(crowd, raw, bucket):
    uploads = []
    for number in range(CLIENTS):
        upload = raw.create_upload(bucket, "k")
        uploads.append((upload, raw.upload_part(bucket, "k", upload, 1, f"by {number}".encode()).etag))

    def complete(client, number):
        upload, etag = uploads[number]
        body = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
        return client.request("POST", bucket, "k", query={"uploadId": upload}, body=body.encode(), headers={"if-none-match": "*"})

    [winner] = winners(crowd(complete), {FAILED})
    assert raw.get(bucket, "k").body == f"by {winner}".encode()


def test_completes_of_one_upload_agree(crowd, raw, bucket):
    upload = raw.create_upload(bucket, "k")
    etag = raw.upload_part(bucket, "k", upload, 1, b"once").etag
    replies = crowd(lambda client, n: client.complete_upload(bucket, "k", upload, [(1, etag)]))
    assert {reply.status for reply in replies} == {200} and len({reply.etag for reply in replies}) == 1


def test_one_deletes(crowd, raw, bucket):
    etag = raw.put(bucket, "k", b"x").etag
    [_] = winners(crowd(lambda client, n: client.delete(bucket, "k", if_match=etag)), {FAILED, (404, "NoSuchKey")})
    assert raw.head(bucket, "k").status == 404


def test_one_creates_the_bucket_and_one_removes_it(crowd, raw, bucket_name):
    replies = crowd(lambda client, n: client.request("PUT", bucket_name))
    assert {reply.status for reply in replies} == {200}  # us-east-1: one's own bucket again
    [_] = winners(crowd(lambda client, n: client.request("DELETE", bucket_name)), {(404, "NoSuchBucket")})


def test_readers_see_whole_states(crowd, raw, bucket):
    """Half write a key over and over, half read and list it: every answer is one write, whole."""
    size = 120_000
    known = {Content(number, size).data() for number in range(CLIENTS)}
    raw.put(bucket, "k", Content(0, size).data())

    def work(client, number):
        for _ in range(6):
            if number % 2:
                assert client.put(bucket, "k", Content(number, size).data()).status == 200
            else:
                assert client.get(bucket, "k").body in known
                assert client.list_all(bucket)["k"][1] == size

    crowd(work)


def test_versions_of_a_crowd(crowd, raw, bucket):
    body = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    assert raw.request("PUT", bucket, query={"versioning": ""}, body=body).status == 200
    replies = crowd(lambda client, n: client.put(bucket, "k", f"{n}".encode()) if n % 4 else client.delete(bucket, "k"))
    ids = [reply.headers["x-amz-version-id"] for reply in replies]
    assert len(set(ids)) == CLIENTS
    root = ElementTree.fromstring(raw.request("GET", bucket, query={"versions": ""}).body)
    listed = [e.findtext(f"{NAMESPACE}VersionId") for e in root.iter() if e.tag in (f"{NAMESPACE}Version", f"{NAMESPACE}DeleteMarker")]
    assert sorted(listed) == sorted(ids)
    latest = [e for e in root.iter(f"{NAMESPACE}IsLatest") if e.text == "true"]
    assert len(latest) == 1
    for number, (reply, version) in enumerate(zip(replies, ids)):
        if number % 4:
            assert raw.request("GET", bucket, "k", query={"versionId": version}).body == f"{number}".encode()


# --- commit loops of tables ----------------------------------------------------------------------------------------


def commit_loop(server, bucket: str, writer: int, commits: int) -> list[int]:
    """What Lance and Delta Lake do: read the newest version, write the next one if nobody else has, else try again."""
    obstore = pytest.importorskip("obstore")
    from obstore.store import S3Store

    from tests.harness import ACCESS_KEY, REGION, SECRET_KEY

    store = S3Store(
        bucket, endpoint=server.endpoint, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, region=REGION,
        virtual_hosted_style_request=False, client_options={"allow_http": True},
    )  # fmt: skip
    mine = []
    while len(mine) < commits:
        entries = [entry["path"] for page in obstore.list(store, prefix="_log/") for entry in page]
        version = max((int(path.rsplit("/", 1)[1].split(".")[0]) for path in entries), default=-1) + 1
        try:
            obstore.put(store, f"_log/{version:020}.json", f"{writer}".encode(), mode="create")
        except FileExistsError:
            continue
        except Exception as error:  # obstore's own AlreadyExistsError
            if "exist" not in type(error).__name__.lower() + str(error).lower():
                raise
            continue
        mine.append(version)
    return mine


def test_four_writers_commit_to_one_log(server, raw, bucket):
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda writer: commit_loop(server, bucket, writer, 12), range(4)))
    versions = sorted(version for mine in done for version in mine)
    assert versions == list(range(48)), "a commit was lost, or two writers had one version"
    for writer, mine in enumerate(done):
        for version in mine:
            assert raw.get(bucket, f"_log/{version:020}.json").body == f"{writer}".encode()
