"""What the pipeline was promised, written down by the client at the moment it was promised.

One line per event, appended with a single write, so that a SIGKILL of the writer loses at most the event that was not
yet promised. `begin` is written before a request is sent, `put` and `delete` after its 200: an object may hold its
last promised content or one begun later, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness import RawClient

VERIFY_THREADS = 4


@dataclass
class Expectation:
    """SHA-256 of every content an object may have; None: it may be absent."""

    admissible: list[str | None] = field(default_factory=lambda: [None])


class Ledger:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def _write(self, **event: object) -> None:
        os.write(self._file, (json.dumps(event) + "\n").encode())

    def begin(self, bucket: str, key: str, sha256: str | None, size: int = 0) -> None:
        self._write(event="begin", bucket=bucket, key=key, sha256=sha256, size=size)

    def done(self, bucket: str, key: str, sha256: str | None, size: int = 0) -> None:
        self._write(event="done", bucket=bucket, key=key, sha256=sha256, size=size)

    def expectations(self) -> dict[tuple[str, str], Expectation]:
        found: dict[tuple[str, str], Expectation] = {}
        for line in self.path.read_text().splitlines():
            event = json.loads(line)
            expected = found.setdefault((event["bucket"], event["key"]), Expectation())
            if event["event"] == "done":
                expected.admissible = [event["sha256"]]
            elif event["sha256"] not in expected.admissible:
                expected.admissible.append(event["sha256"])
        return found


@dataclass
class Verification:
    """What re-reading everything found."""

    objects: int = 0
    absent: int = 0
    bytes: int = 0
    wrong: list[str] = field(default_factory=list)


def verify(ledger: Ledger, port: int) -> Verification:
    """Reads every object the ledger knows, whole, and compares its SHA-256; then compares the listings."""
    expected = ledger.expectations()
    result = Verification()
    lock = threading.Lock()
    present: dict[str, set[str]] = {bucket: set() for bucket, _ in expected}

    def look(entries) -> None:
        client = RawClient("127.0.0.1", port)
        for (bucket, key), expectation in entries:
            reply = client.get(bucket, key)
            found = hashlib.sha256(reply.body).hexdigest() if reply.status == 200 else None
            with lock:
                if reply.status not in (200, 404):
                    result.wrong.append(f"{bucket}/{key}: {reply.status} {reply.body[:200]!r}")
                elif found not in expectation.admissible:
                    names = [a[:12] if a else "absent" for a in expectation.admissible]
                    result.wrong.append(f"{bucket}/{key}: found {found and found[:12]}, promised {names}")
                elif found is None:
                    result.absent += 1
                else:
                    result.objects += 1
                    result.bytes += len(reply.body)
                    present[bucket].add(key)
        client.close()

    entries = list(expected.items())
    with ThreadPoolExecutor(VERIFY_THREADS) as pool:
        list(pool.map(look, [entries[i::VERIFY_THREADS] for i in range(VERIFY_THREADS)]))
    client = RawClient("127.0.0.1", port)
    for bucket, keys in present.items():
        listed = set(client.list_all(bucket))
        for key in sorted(listed ^ keys)[:5]:
            result.wrong.append(f"{bucket}/{key}: {'listed, though nothing is there' if key in listed else 'not listed'}")
    client.close()
    return result
