"""Bytes that can be told apart: every content is named by a number, and any two differ in every 64-byte run with
near certainty, so that a mixture of two writes, or half of one, never passes for either."""

from __future__ import annotations

import functools
import hashlib
import random
from dataclasses import dataclass

POOL_BYTES = 24 * 1024 * 1024
HEADER_BYTES = 32


@functools.cache
def _pool() -> bytes:
    return random.Random(0x6772616E617279).randbytes(POOL_BYTES)


@dataclass(frozen=True)
class Content:
    """`size` bytes named by `number`: a header that says which, then a run of a fixed random pool, whose start
    depends on the number."""

    number: int
    size: int

    def data(self) -> bytes:
        header = f"granary {self.number:016x} {self.size:06x} ".encode()[: self.size]
        rest = self.size - len(header)
        pool = _pool()
        start = (self.number * 1_000_003 * 67) % (POOL_BYTES - 1)
        parts = [header]
        while rest > 0:
            run = pool[start : start + rest]
            parts.append(run)
            rest -= len(run)
            start = 0
        return b"".join(parts)

    def sha256(self) -> str:
        return hashlib.sha256(self.data()).hexdigest()

    def md5(self) -> str:
        return hashlib.md5(self.data()).hexdigest()


def describe(data: bytes) -> str:
    """What wrong bytes look like: their size, whose header they carry, their digest."""
    return f"{len(data)} bytes, begins {data[:34]!r}, sha256 {hashlib.sha256(data).hexdigest()[:16]}"
