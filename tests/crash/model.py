"""What a client may find after a crash.

Each key belongs to one thread, whose requests follow one another, so what the key may hold is a small set: what the
last acknowledged request left there, and what each request of unknown fate since then would have left. Reading the
key settles it: from then on it must hold just what was read. Nothing else is ever right: not a mixture, not half a
write, not an older state, not an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.harness.content import Content, describe


@dataclass(frozen=True)
class Stored:
    """An object: its parts' contents in order, and the number it carries as user metadata."""

    contents: tuple[Content, ...]
    note: str

    def data(self) -> bytes:
        return b"".join(content.data() for content in self.contents)

    @property
    def size(self) -> int:
        return sum(content.size for content in self.contents)

    def __str__(self) -> str:
        numbers = "+".join(f"{content.number:x}" for content in self.contents)
        return f"object {numbers} of {self.size} bytes"


# A key's state: an object, or None where there is none.
State = Stored | None


@dataclass
class KeyModel:
    """One key: every state it may be in, and the ETag where an answer told it."""

    admissible: list[State] = field(default_factory=lambda: [None])
    etag: str = ""
    dirty: bool = False

    @property
    def settled(self) -> State:
        """The one state it can be in; only to be asked when `certain`."""
        assert self.certain
        return self.admissible[0]

    @property
    def certain(self) -> bool:
        return len(self.admissible) == 1

    def acknowledged(self, state: State, etag: str = "") -> None:
        self.admissible = [state]
        self.etag = etag
        self.dirty = True

    def unknown(self, state: State) -> None:
        """A request that would leave `state` had no answer: it happened, or it did not."""
        if state not in self.admissible:
            self.admissible.append(state)
        self.etag = ""
        self.dirty = True

    def observe(self, key: str, data: bytes | None, note: str, etag: str) -> str | None:
        """Settles on what a read found, or says what is wrong with it."""
        for state in self.admissible:
            if state is None:
                if data is None:
                    break
            elif data is not None and state.note == note and state.size == len(data) and state.data() == data:
                break
        else:
            found = "nothing" if data is None else describe(data) + f", note {note!r}"
            allowed = " or ".join("nothing" if s is None else f"{s} (note {s.note})" for s in self.admissible)
            return f"{key}: found {found}; admissible: {allowed}"
        if state is not None and self.etag and self.etag != etag:
            return f"{key}: ETag {etag} where the acknowledged one was {self.etag}"
        self.admissible = [state]
        self.etag = etag if state is not None else ""
        self.dirty = False
        return None


@dataclass
class UploadModel:
    """One multipart upload: the parts acknowledged, the one of unknown fate, and whether its end is unknown."""

    key: str
    upload: str
    note: str
    parts: dict[int, tuple[str, Content]] = field(default_factory=dict)
    doubtful: dict[int, Content] = field(default_factory=dict)
    ending: str = ""  # "", "complete" or "abort": requested, not answered
    completed_as: Stored | None = None
