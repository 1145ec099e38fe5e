"""Who guesses keys is slowed down, and locks nobody out by it."""

from __future__ import annotations

from collections import Counter

from botocore.exceptions import ClientError

from tests.harness import Server

from .people import client, user


def codes(caller, times: int) -> Counter:
    seen: Counter = Counter()
    for _ in range(times):
        try:
            caller.list_buckets()
            seen["fine"] += 1
        except ClientError as error:
            seen[error.response["Error"]["Code"]] += 1
    return seen


def test_guesses_are_slowed_but_nobody_is_locked_out():
    with Server() as server:
        server.start()
        _, mine = user(server, "readwrite")
        _, target = user(server, "readwrite")
        wrong = client(server, target | {"secret_key": "w" * 40})
        assert codes(wrong, 1) == {"SignatureDoesNotMatch": 1}
        # Signing rightly, while somebody fails, is what makes a client known.
        assert codes(client(server, mine), 1) == {"fine": 1}
        seen = codes(wrong, 2_000)
        assert seen["SlowDown"] > 0 and seen["SignatureDoesNotMatch"] >= 150, seen
        assert set(seen) == {"SlowDown", "SignatureDoesNotMatch"}
        assert codes(client(server, mine), 20) == {"fine": 20}
