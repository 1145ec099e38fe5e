"""What is done to drives in these tests, and a population of objects that is looked at afterwards."""

from __future__ import annotations

import os
import random
import shutil
import threading
from pathlib import Path

from tests.harness import Content, RawClient, Server
from tests.harness.content import describe

KIB, MIB = 1024, 1024 * 1024
SIZES = [1, 500, 16 * KIB, 16 * KIB + 1, 60_000, 128 * KIB, 128 * KIB + 1, 400_000, MIB, 3 * MIB + 17, 9 * MIB + 1]
PAGE = 4096


class Population:
    """Objects with known contents in a bucket; `admissible` holds what each key may be."""

    def __init__(self, server: Server, bucket: str = "drives", seed: int = 1) -> None:
        self.server = server
        self.bucket = bucket
        self.rng = random.Random(seed)
        self.numbers = iter(range(1 << 40, 1 << 60))
        self.admissible: dict[str, list[Content | None]] = {}
        self.refused: list[tuple[int, str]] = []
        self.acknowledged = 0

    def client(self) -> RawClient:
        return RawClient("127.0.0.1", self.server.port, timeout=120)

    def create(self) -> None:
        reply = self.client().request("PUT", self.bucket)
        assert reply.status == 200, reply

    def put(self, client: RawClient, key: str, size: int) -> int:
        """Writes; 200 settles the key, a 5xx or a broken connection leaves it open."""
        content = Content(next(self.numbers), size)
        before = self.admissible.get(key, [None])
        self.admissible[key] = [*before, content]
        try:
            reply = client.put(self.bucket, key, content.data())
        except OSError:
            return 0
        if reply.status == 200:
            self.admissible[key] = [content]
            self.acknowledged += 1
        else:
            self.refused.append((reply.status, reply.code))
        return reply.status

    def fill(self, count: int, prefix: str = "k", may_refuse: bool = False) -> None:
        """Writes `count` objects. With fewer than K+1 drives up, what does not fit into the log is refused, in
        words, and leaves nothing (`may_refuse`); what fits is taken."""
        client = self.client()
        for number in range(count):
            key, size = f"{prefix}{number:04d}", SIZES[number % len(SIZES)]
            status = self.put(client, key, size)
            if may_refuse and status == 503 and size > 16 * 1024:
                self.admissible[key] = [None]
                continue
            assert status == 200, self.refused[-1:]

    def load(self, stop: threading.Event, prefix: str, keys: int = 20) -> list[threading.Thread]:
        """Two writers that overwrite keys of their own and read them back, until told to stop."""
        self.wrong: list[str] = []

        def one(index: int) -> None:
            rng = random.Random(f"{prefix}{index}")
            client = self.client()
            while not stop.is_set():
                key = f"{prefix}{index}/{rng.randrange(keys):03d}"
                self.put(client, key, rng.choice(SIZES))
                found = self.judge(client, key)
                if found:
                    self.wrong.append(found)

        threads = [threading.Thread(target=one, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        return threads

    def judge(self, client: RawClient, key: str) -> str | None:
        """What is wrong with a key, if anything."""
        reply = client.get(self.bucket, key)
        if reply.status not in (200, 404):
            return f"{key}: {reply.status} {reply.code} {reply.body[:200]!r}"
        for content in self.admissible[key]:
            if content is None and reply.status == 404:
                return None
            if content is not None and reply.status == 200 and content.data() == reply.body:
                return None
        return f"{key}: {reply.status}, {describe(reply.body)}; admissible: {self.admissible[key]}"

    def check(self, when: str, but: str = "-") -> None:
        """Every object (but those whose keys begin with `but`: somebody is writing them just now) reads back right,
        whole and in part, and the listing has just those that are there."""
        keys = {key: settled for key, settled in list(self.admissible.items()) if not key.startswith(but)}
        client = self.client()
        wrong = [found for key in list(keys) if (found := self.judge(client, key))]
        for key in self.rng.sample(sorted(keys), min(20, len(keys))):
            settled = self.admissible[key]
            if len(settled) == 1 and settled[0] is not None and settled[0].size > 2:
                size = settled[0].size
                first = self.rng.randrange(size - 1)
                last = self.rng.randrange(first, size)
                reply = client.get(self.bucket, key, range=f"bytes={first}-{last}")
                if reply.status != 206 or reply.body != settled[0].data()[first : last + 1]:
                    wrong.append(f"{key} bytes={first}-{last}: {reply.status}, not the bytes of the whole")
        listed = client.list_all(self.bucket)
        for key, settled in keys.items():
            if len(settled) == 1 and (settled[0] is not None) != (key in listed):
                wrong.append(f"{key}: {'listed' if key in listed else 'not listed'}; {settled[0]}")
        client.close()
        shown = "\n".join(f"  - {line}" for line in wrong[:15])
        assert not wrong, f"{len(wrong)} of {len(self.admissible)} wrong {when}:\n{shown}\n{self.server.log_tail(40)}"


# --- damage ----------------------------------------------------------------------------------------------------


def delete_drive(drive: Path) -> None:
    """The folder's content goes; the mount point stays, as when a disk is pulled."""
    for entry in drive.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def files(drive: Path, kind: str) -> list[Path]:
    """The files of a kind on a drive: by the first folder under it, or `drive.json`."""
    every = sorted(p for p in drive.rglob("*") if p.is_file())
    if kind == "everything":
        return every
    return [p for p in every if p.relative_to(drive).parts[0] == kind]


def kinds(drive: Path) -> list[str]:
    return sorted({p.relative_to(drive).parts[0] for p in drive.rglob("*") if p.is_file()})


def flip(path: Path, rng: random.Random, share: float, at_least: int = 1) -> int:
    """Flips one bit in `share` of the pages that are not all zero; returns how many."""
    flipped = 0
    with open(path, "r+b") as file:
        pages = []
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset -= offset % PAGE
            end = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            while offset < end:
                block = os.pread(file.fileno(), MIB, offset)
                for start in range(0, len(block), PAGE):
                    if any(block[start : start + PAGE]):
                        pages.append((offset + start, len(block[start : start + PAGE])))
                offset += len(block)
                if not block:
                    break
        chosen = [p for p in pages if rng.random() < share] or rng.sample(pages, min(at_least, len(pages)))
        for start, length in chosen:
            position = start + rng.randrange(length)
            byte = os.pread(file.fileno(), 1, position)[0]
            os.pwrite(file.fileno(), bytes([byte ^ (1 << rng.randrange(8))]), position)
            flipped += 1
        os.fsync(file.fileno())
    return flipped
