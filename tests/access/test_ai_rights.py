"""What policy denies, no endpoint for AI work tells: members, batches, the latest checkpoint, epochs, datasets, warming."""

from __future__ import annotations

import json
import time

import pytest

from tests.harness import Content, Server, boto3_client
from tests.harness.granary import Signed, entries, make_tar

from .people import allow, deny, name, put_policy, user

WORD = "zebra"  # in every name and every byte that is to be kept


@pytest.fixture(scope="module")
def cached():
    with Server(env={"GRANARY_AI_CACHE_BYTES": str(16 << 20)}) as server:
        server.start()
        yield server


@pytest.fixture(scope="module")
def stocked(cached) -> str:
    """A bucket with two halves, alike but for the names: `open/` and `closed/`."""
    s3, bucket = boto3_client(cached.endpoint), name("halves")
    s3.create_bucket(Bucket=bucket)
    for half in ("open", "closed"):
        word = WORD if half == "closed" else "horse"
        s3.put_object(Bucket=bucket, Key=f"{half}/{word}.tar", Body=make_tar({f"{word}.txt": word.encode() * 9}))
        s3.put_object(Bucket=bucket, Key=f"{half}/{word}.bin", Body=Content(1, 70_000).data())
        for n in range(3):
            s3.put_object(Bucket=bucket, Key=f"{half}/set/{word}{n}.tar", Body=make_tar({f"{word}{n}.txt": word.encode()}))
        s3.put_object(Bucket=bucket, Key=f"{half}/run/{word}_step_5/.metadata", Body=b"x")
        assert cached.cli("dataset", "freeze", f"{bucket}/{half}/set").returncode == 0
    # One dataset of which a part may not be read.
    for key in ("mixed/a.bin", f"mixed/{WORD}.bin"):
        s3.put_object(Bucket=bucket, Key=key, Body=WORD.encode())
    assert cached.cli("dataset", "freeze", f"{bucket}/mixed").returncode == 0
    return bucket


def by_prefix(bucket: str, *prefixes: str) -> dict:
    return {"StringLike": {"s3:prefix": [f"{prefix}*" for prefix in prefixes]}}


def people(server, bucket: str) -> dict[str, Signed]:
    """The same limit, said in two ways."""
    arn = f"arn:aws:s3:::{bucket}"
    told = {
        "allowed the one half": [
            allow(["s3:GetObject", "granary:*"], [f"{arn}/open/*", f"{arn}/mixed/a*"]),
            allow("s3:ListBucket", arn, Condition=by_prefix(bucket, "open/", "mixed/")),
        ],
        "denied the other half": [
            allow(["s3:*", "granary:*"]),
            deny(["s3:GetObject*", "granary:*"], [f"{arn}/closed/*", f"{arn}/mixed/{WORD}*"]),
            deny("s3:ListBucket", arn, Condition=by_prefix(bucket, "closed/")),
        ],
    }
    made = {}
    for what, statements in told.items():
        _, key = user(server, put_policy(server, name("limit"), *statements))
        made[what] = Signed(server.endpoint, key["access_key"], key["secret_key"])
    return made


REQUESTS = {
    "member": lambda half, word: ("GET", f"{half}/{word}.tar", {"granary-member": f"{word}.txt"}),
    "head of a member": lambda half, word: ("HEAD", f"{half}/{word}.tar", {"granary-member": f"{word}.txt"}),
    "members": lambda half, word: ("GET", f"{half}/{word}.tar", {"granary-members": ""}),
    "latest": lambda half, word: ("GET", f"{half}/run/", {"granary-latest": ""}),
    "dataset": lambda half, word: ("GET", f"{half}/set/", {"granary-dataset": ""}),
    "epoch": lambda half, word: ("GET", f"{half}/set/", {"granary-epoch": "0", "batch": "0", "batch-size": "9"}),
    "warm": lambda half, word: ("POST", f"{half}/", {"granary-warm": ""}),
    "pin": lambda half, word: ("POST", f"{half}/", {"granary-warm": "pin"}),
    "evict": lambda half, word: ("POST", f"{half}/", {"granary-warm": "evict"}),
}


def test_each_endpoint_serves_one_half_and_tells_nothing_of_the_other(cached, stocked):
    for what, ask in people(cached, stocked).items():
        for endpoint, request in REQUESTS.items():
            method, path, query = request("open", "horse")
            got = ask(method, f"/{stocked}/{path}", query)
            assert got.status == 200, (what, endpoint, got.body)
            method, path, query = request("closed", WORD)
            got = ask(method, f"/{stocked}/{path}", query)
            assert got.status == 403 and got.code in ("AccessDenied", ""), (what, endpoint, got.status, got.body)
            shown = got.body.decode().replace(path, "") + json.dumps(got.headers)
            assert WORD not in shown, (what, endpoint, shown)
        # What is not there is refused in the same words as what is.
        there = ask("GET", f"/{stocked}/closed/{WORD}.tar", {"granary-member": "a"})
        absent = ask("GET", f"/{stocked}/closed/absent.tar", {"granary-member": "a"})
        assert (there.status, there.code) == (absent.status, absent.code) == (403, "AccessDenied")
        # A prefix beside the folder, or none, lists no more than ListObjectsV2 would.
        assert ask("GET", f"/{stocked}/", {"granary-latest": "", "prefix": "closed/run/"}).status == 403


def test_batches_mark_what_is_denied_like_what_is_not_there_to_be_known(cached, stocked):
    items = [
        {"key": "open/horse.bin", "range": "bytes=0-9"},
        {"key": f"closed/{WORD}.bin", "as": "1"},
        {"key": "closed/absent.bin", "as": "2"},
        {"key": f"closed/{WORD}.tar", "member": f"{WORD}.txt", "as": "3"},
        {"key": f"closed/{WORD}.tar", "member": "absent", "as": "4"},
        {"key": "open/horse.tar", "member": "horse.txt"},
    ]
    for what, ask in people(cached, stocked).items():
        got = ask.batch(stocked, items, info=True)
        assert got.status == 200, got.body
        marks = [(info.pax_headers.get("GRANARY.error"), info.pax_headers.get("GRANARY.message"), data) for info, data in entries(got.body)]
        assert marks[0] == (None, None, Content(1, 70_000).data()[:10]) and marks[5] == (None, None, b"horse" * 9), what
        assert set(marks[1:5]) == {("AccessDenied", "Access Denied", b"")}, what
        assert WORD.encode() not in got.body
        for i in (1, 2, 3, 4):
            failed = ask.batch(stocked, [items[0], items[i]], on_missing="fail")
            assert (failed.status, failed.code) == (403, "AccessDenied"), (what, items[i])
            assert ask.batch(stocked, [items[i]]).status == 403, "nothing of it: no archive at all"


def test_who_may_read_but_not_list_is_not_told_what_is_missing(cached, stocked):
    _, key = user(cached, put_policy(cached, name("reader"), allow("s3:GetObject", f"arn:aws:s3:::{stocked}/open/*")))
    ask = Signed(cached.endpoint, key["access_key"], key["secret_key"])
    assert ask("GET", f"/{stocked}/open/horse.tar", {"granary-member": "horse.txt"}).status == 200
    absent = ask("GET", f"/{stocked}/open/absent.tar", {"granary-member": "x"})
    assert (absent.status, absent.code) == (403, "AccessDenied")
    got = ask.batch(stocked, [{"key": "open/horse.bin"}, {"key": "open/absent.bin"}])
    assert entries(got.body)[1][0].pax_headers["GRANARY.error"] == "AccessDenied"
    assert ask.batch(stocked, [{"key": "open/absent.bin"}], on_missing="fail").code == "AccessDenied"
    for query in ({"granary-latest": ""}, {"granary-dataset": ""}, {"granary-warm": ""}):
        method = "POST" if "granary-warm" in query else "GET"
        assert ask(method, f"/{stocked}/open/", query).status == 403, query


def test_an_epoch_over_what_may_only_be_read_in_part_is_refused(cached, stocked):
    for what, ask in people(cached, stocked).items():
        got = ask("GET", f"/{stocked}/mixed/", {"granary-epoch": "0", "batch": "0", "batch-size": "2"})
        assert (got.status, got.code) == (403, "AccessDenied"), what


def test_warming_is_a_right_of_its_own(cached, stocked):
    arn = f"arn:aws:s3:::{stocked}"
    _, key = user(cached, "readwrite")
    reader = Signed(cached.endpoint, key["access_key"], key["secret_key"])
    assert reader("POST", f"/{stocked}/open/", {"granary-warm": ""}).status == 403, "all of S3 is not Granary's cache"
    _, key = user(cached, put_policy(cached, name("warmer"), allow("granary:WarmCache", f"{arn}/open/*")))
    warmer = Signed(cached.endpoint, key["access_key"], key["secret_key"])
    got = warmer("POST", f"/{stocked}/open/", {"granary-warm": ""})
    assert got.status == 200 and got.json()["objects"] > 0 and not got.json()["isFull"], got.body
    for act in ("pin", "evict"):
        assert warmer("POST", f"/{stocked}/open/", {"granary-warm": act}).status == 403, act
    assert warmer("POST", f"/{stocked}", {"granary-warm": ""}).status == 403, "not the whole bucket"
    assert warmer("GET", f"/{stocked}/open/horse.bin").status == 403, "nor reading"
    ours = Signed(cached.endpoint)
    assert ours("POST", f"/{stocked}/open/", {"granary-warm": "boil"}).code == "InvalidArgument"
    assert ours("GET", f"/{stocked}/open/", {"granary-warm": ""}).code == "MethodNotAllowed"

    def outcomes() -> set:
        events = [json.loads(line) for line in cached.cli("audit", "query", "--bucket", stocked, "--json").stdout.splitlines()]
        return {event.get("errorCode") for event in events if event["eventName"] == "GranaryWarm"}

    # Events of what changes no object are batched for up to a second.
    deadline = time.monotonic() + 60
    while not outcomes() >= {None, "AccessDenied"}:
        assert time.monotonic() < deadline, outcomes()
        time.sleep(0.2)


def test_policies_with_actions_that_are_none_are_refused(cached, stocked):
    s3 = boto3_client(cached.endpoint)
    arn = f"arn:aws:s3:::{stocked}/open/*"
    with pytest.raises(s3.exceptions.ClientError) as refused:
        policy = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*", "Action": "granary:BoilCache", "Resource": arn}}
        s3.put_bucket_policy(Bucket=stocked, Policy=json.dumps(policy))
    assert refused.value.response["Error"]["Code"] == "MalformedPolicy" and "BoilCache" in str(refused.value)
