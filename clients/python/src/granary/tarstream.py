"""Tar entries from a stream, as Granary writes them (ustar and pax), whole or not at all.

The standard library's `tarfile` takes a file that is cut between two entries for a whole one; here the blocks that end an
archive must have come.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from .types import Incomplete

BLOCK = 512


class Readable(Protocol):
    def read(self, amt: int) -> bytes: ...


def _exactly(stream: Readable, size: int) -> bytes:
    parts: list[bytes] = []
    left = size
    while left > 0:
        try:
            part = stream.read(left)
        except Exception as error:  # urllib3's ProtocolError and its kin
            raise Incomplete(f"the answer broke off: {error}") from error
        if not part:
            raise Incomplete(f"the answer ended {left} bytes early")
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode()


def _pax(data: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    while data and data[0]:
        length = int(data[: data.index(b" ")])
        record, data = data[:length], data[length:]
        keyword, _, value = record[record.index(b" ") + 1 : -1].partition(b"=")
        records[keyword.decode()] = value.decode()
    return records


def entries(stream: Readable) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Names, bytes and pax records, in order."""
    records: dict[str, str] = {}
    while True:
        block = _exactly(stream, BLOCK)
        if not any(block):
            if any(_exactly(stream, BLOCK)):
                raise Incomplete("one zero block where two end an archive")
            return
        stated = int(_text(block[148:156]).strip() or "0", 8)
        if stated != sum(block[:148]) + 8 * ord(" ") + sum(block[156:]):
            raise Incomplete("the answer is no tar file: a header's checksum is wrong")
        size = int(_text(block[124:136]).strip() or "0", 8)
        kind = block[156:157]
        if kind == b"x":
            records = _pax(_padded(stream, size))
            continue
        size = int(records.get("size", size))
        prefix, name = _text(block[345:500]), _text(block[:100])
        name = records.get("path", f"{prefix}/{name}" if prefix else name)
        yield name, _padded(stream, size), records
        records = {}


def _padded(stream: Readable, size: int) -> bytes:
    data = _exactly(stream, size)
    if size % BLOCK:
        _exactly(stream, BLOCK - size % BLOCK)
    return data
