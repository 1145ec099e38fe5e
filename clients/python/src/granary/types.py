"""What goes in and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field


class GranaryError(Exception):
    """The server refused: its S3 code, message and HTTP status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code} ({status}): {message}")
        self.status = status
        self.code = code
        self.message = message


class Missing(GranaryError):
    """What was asked for is not there."""


class Incomplete(OSError):
    """An answer ended early, or is not what was asked for: nothing of what is missing was yielded."""


@dataclass(frozen=True)
class Item:
    """One thing of a batch: an object, a member of a tar shard, or a range of either."""

    key: str
    member: str | None = None
    range: tuple[int, int | None] | None = None
    """First byte and last byte (inclusive; `None`: to the end)."""
    version: str | None = None
    name: str | None = None
    """Name of the entry in the answer; else the member's, else the key."""

    def wire(self) -> dict[str, str]:
        out = {"key": self.key}
        if self.member is not None:
            out["member"] = self.member
        if self.range is not None:
            first, last = self.range
            out["range"] = f"bytes={first}-{'' if last is None else last}"
        if self.version is not None:
            out["version"] = self.version
        if self.name is not None:
            out["as"] = self.name
        return out

    @property
    def entry_name(self) -> str:
        return self.name or self.member or self.key


@dataclass(frozen=True)
class Entry:
    """One entry of an answer. `error` is the S3 code where the item is not there; `data` is empty then."""

    name: str
    data: bytes
    error: str | None = None
    message: str | None = None
    info: dict[str, str] = field(default_factory=dict)
    """What the server tells of the source, where asked for: `key`, `etag`, `version`."""


@dataclass(frozen=True)
class Member:
    """A member of a tar shard: `offset` and `size` are those of its bytes in the object."""

    name: str
    offset: int
    size: int
    sample: str
    field: str


@dataclass(frozen=True)
class Checkpoint:
    """The newest complete checkpoint: a file, or a folder (whose key ends in a slash)."""

    key: str
    step: int
    kind: str
    marker: str | None
    etag: str
    version: str | None
    size: int | None


@dataclass(frozen=True)
class Warmed:
    """What was read into the read cache."""

    objects: int
    bytes: int
    is_full: bool
    """The cache's size was reached before all was read."""


@dataclass
class Sample:
    """A sample of an epoch: its key, and its files by what follows the first dot of their names."""

    key: str
    files: dict[str, bytes]


@dataclass
class Batch:
    """A batch of an epoch. Resume with `batch=index + 1`."""

    epoch: int
    index: int
    batches: int
    """Batches of this rank in every epoch."""
    samples: list[Sample]
