"""A client process of the crash test: threads that write what they please until the server is gone, and afterwards
look whether all they were promised is there."""

from __future__ import annotations

import http.client
import itertools
import random
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field

from tests.harness.content import Content
from tests.harness.raw import RawClient, Reply, S3Failure

from .model import KeyModel, Stored, UploadModel

KIB = 1024
MIB = 1024 * KIB
PART_BYTES = 5 * MIB
# Either side of every size at which the engine changes what it does: inline, copies, stripes, blocks.
EDGES = [1, 16 * KIB, 16 * KIB + 1, 65_520, 65_521, 128 * KIB, 128 * KIB + 1, 4 * 65_520, 4 * 65_520 + 1, 4 * 512 * KIB]
GONE = (ConnectionError, http.client.HTTPException, OSError)


class Wrong(Exception):
    """The server did something it must not."""


@dataclass
class Attempt:
    """A write to a key that many write: what it would leave, and whether it was acknowledged (None: unknown)."""

    key: str
    value: int
    content: Content
    acknowledged: bool | None


@dataclass
class Report:
    """What a thread did or found in one go."""

    counts: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        self.counts.update(other.counts)
        self.wrong += other.wrong
        self.attempts += other.attempts


class Lane:
    """One thread's keys and its connection. Requests follow one another; nobody else touches these keys."""

    def __init__(self, name: str, port: int, bucket: str, seed: str, keys: int, number_base: int) -> None:
        self.name = name
        self.port = port
        self.bucket = bucket
        self.rng = random.Random(f"{seed}/{name}")
        self.numbers = itertools.count(number_base)
        self.keys = {f"{name}/{i:03d}": KeyModel() for i in range(keys)}
        self.uploads: list[UploadModel] = []
        self.client = RawClient("127.0.0.1", port, timeout=60)
        self.report = Report()
        self.shared: list[str] = []
        self.started = threading.Event()

    # --- load ----------------------------------------------------------------------------------------------

    def run(self, shared: list[str], stop: threading.Event) -> Report:
        """Writes until the server is gone (or `stop` is set). A dropped connection on a server that goes on
        serving is itself wrong."""
        self.report = Report()
        self.shared = shared
        dropped, answered = "", 0
        while not stop.is_set():
            try:
                self.step()
                # (A step may find nothing to do and ask the server nothing: that tells nothing of it.)
                if dropped and self.client.answered > answered:
                    self.report.wrong.append(f"{self.name}: the server lives, but dropped a connection: {dropped}")
                    dropped = ""
                self.started.set()
            except ConnectionRefusedError:
                break
            except GONE as error:
                self.report.counts["unknown"] += 1
                doing = [frame.name for frame in traceback.extract_tb(error.__traceback__) if "worker" in frame.filename or "raw" in frame.filename]
                answered = self.client.answered
                dropped = f"{type(error).__name__}: {error} (in {' > '.join(doing)})"
                time.sleep(0.05)
            except S3Failure as failure:
                if failure.status != 503:
                    self.report.wrong.append(f"{self.name}: {failure}")
            except Wrong as wrong:
                self.report.wrong.append(str(wrong))
        self.client.close()
        return self.report

    def step(self) -> None:
        choice = self.rng.random()
        if choice < 0.34:
            self.put()
        elif choice < 0.44:
            self.put_if()
        elif choice < 0.54:
            self.delete()
        elif choice < 0.62:
            self.copy()
        elif choice < 0.69:
            self.multipart()
        elif choice < 0.73:
            self.delete_many()
        elif choice < 0.81:
            self.race()
        elif choice < 0.86:
            self.count_up()
        else:
            self.read_back(self.rng.choice(list(self.keys)))

    def size(self) -> int:
        band = self.rng.random()
        if band < 0.15:
            return self.rng.choice(EDGES)
        if band < 0.50:
            return self.rng.randint(1, 16 * KIB)
        if band < 0.75:
            return self.rng.randint(16 * KIB, 128 * KIB)
        if band < 0.95:
            return self.rng.randint(128 * KIB, MIB)
        return self.rng.randint(MIB, 8 * MIB)

    def fresh(self, size: int | None = None) -> Stored:
        content = Content(next(self.numbers), self.size() if size is None else size)
        return Stored((content,), f"{content.number:x}")

    def pick(self) -> tuple[str, KeyModel]:
        key = self.rng.choice(list(self.keys))
        return key, self.keys[key]

    def apply(self, what: str, key: str, model: KeyModel, state: Stored | None, send, good=(200,), refused=()) -> Reply:
        """Sends a write that would leave `state`, and keeps the model by the answer."""
        try:
            reply = send()
        except GONE:
            model.unknown(state)
            raise
        if reply.status in good:
            model.acknowledged(state, reply.etag)
            self.report.counts[what] += 1
            if state is not None:
                self.report.counts["bytes"] += state.size
        elif reply.status == 503 or reply.status in refused:
            self.report.counts[f"{what} refused {reply.status}"] += 1
        else:
            model.unknown(state)
            raise Wrong(f"{what} {key}: {reply.status} {reply.code} {reply.body[:200]!r}")
        return reply

    def put(self) -> None:
        key, model = self.pick()
        state = self.fresh()
        self.apply(
            "put", key, model, state,
            lambda: self.client.put(self.bucket, key, state.data(), x_amz_meta_n=state.note),
        )  # fmt: skip

    def put_if(self) -> None:
        """A conditional write whose outcome the model knows where the key is certain."""
        key, model = self.pick()
        state = self.fresh()
        before = list(model.admissible)
        if self.rng.random() < 0.5 or not model.etag:
            headers = {"if_none_match": "*"}
            may, must = None in before, before == [None]
        else:
            headers = {"if_match": model.etag if self.rng.random() < 0.7 else '"0123456789abcdef0123456789abcdef"'}
            may = must = headers["if_match"] == model.etag
        reply = self.apply(
            "put if", key, model, state,
            lambda: self.client.put(self.bucket, key, state.data(), x_amz_meta_n=state.note, **headers),
            refused=(412, 404),
        )  # fmt: skip
        if reply.status == 200 and not may:
            raise Wrong(f"put if {headers} {key}: 200, though its condition could not hold ({before})")
        if reply.status in (404, 412) and must:
            raise Wrong(f"put if {headers} {key}: {reply.status}, though its condition held ({before})")
        if reply.status == 404 and None not in before:
            raise Wrong(f"put if {headers} {key}: 404 of a key that exists")

    def delete(self) -> None:
        key, model = self.pick()
        self.apply("delete", key, model, None, lambda: self.client.delete(self.bucket, key), good=(204,))

    def delete_many(self) -> None:
        chosen = self.rng.sample(list(self.keys), min(len(self.keys), self.rng.randint(2, 5)))
        try:
            reply = self.client.delete_many(self.bucket, chosen)
        except GONE:
            for key in chosen:
                self.keys[key].unknown(None)
            raise
        if reply.status == 200 and b"<Error>" not in reply.body:
            for key in chosen:
                self.keys[key].acknowledged(None)
            self.report.counts["delete many"] += 1
        elif reply.status == 503:
            self.report.counts["delete many refused 503"] += 1
        else:
            for key in chosen:
                self.keys[key].unknown(None)
            raise Wrong(f"delete many {chosen}: {reply.status} {reply.body[:300]!r}")

    def copy(self) -> None:
        sources = [key for key, model in self.keys.items() if model.certain and model.settled is not None]
        if not sources:
            return self.put()
        source = self.rng.choice(sources)
        state = self.keys[source].settled
        key, model = self.pick()
        if key == source:
            return None
        reply = self.apply("copy", key, model, state, lambda: self.client.copy(self.bucket, source, key))
        if reply.status == 200:
            model.etag = ""  # it is in the body; the next read tells it
            if b"<Error>" in reply.body:
                raise Wrong(f"copy {source} → {key}: an error in a 200: {reply.body[:300]!r}")
        return None

    def multipart(self) -> None:
        key, model = self.pick()
        note = f"{next(self.numbers):x}"
        upload = UploadModel(key, self.client.create_upload(self.bucket, key, x_amz_meta_n=note), note)
        self.uploads.append(upload)
        self.report.counts["create upload"] += 1
        full = 0 if self.rng.random() < 0.6 else 1
        sizes = [PART_BYTES + self.rng.randint(0, MIB) for _ in range(full)] + [self.rng.randint(1, MIB)]
        for number, size in enumerate(sizes, 1):
            content = Content(next(self.numbers), size)
            upload.doubtful[number] = content
            reply = self.client.upload_part(self.bucket, key, upload.upload, number, content.data())
            if reply.status == 503:
                return
            if reply.status != 200:
                raise Wrong(f"upload part {number} of {key}: {reply.status} {reply.body[:200]!r}")
            del upload.doubtful[number]
            upload.parts[number] = (reply.etag, content)
            self.report.counts["part"] += 1
            self.report.counts["bytes"] += size
        fate = self.rng.random()
        if fate < 0.70:
            self.complete(upload, model)
        elif fate < 0.85:
            self.abort(upload)

    def complete(self, upload: UploadModel, model: KeyModel) -> None:
        """Completes with the acknowledged parts."""
        parts = sorted(upload.parts.items())
        state = Stored(tuple(content for _, (_, content) in parts), upload.note)
        upload.ending, upload.completed_as = "complete", state
        reply = self.apply(
            "complete", upload.key, model, state,
            lambda: self.client.complete_upload(self.bucket, upload.key, upload.upload, [(n, e) for n, (e, _) in parts]),
        )  # fmt: skip
        upload.ending = ""
        if reply.status == 200:
            self.uploads.remove(upload)

    def abort(self, upload: UploadModel) -> None:
        upload.ending = "abort"
        reply = self.client.abort_upload(self.bucket, upload.key, upload.upload)
        upload.ending = ""
        if reply.status == 204:
            self.uploads.remove(upload)
            self.report.counts["abort"] += 1
        elif reply.status != 503:
            raise Wrong(f"abort {upload.key}: {reply.status} {reply.body[:200]!r}")

    def race(self) -> None:
        """Everybody writes the same new key with `If-None-Match: *`: one wins, for good."""
        key = self.rng.choice(self.shared)
        state = self.fresh()
        attempt = Attempt(key, 0, state.contents[0], None)
        self.report.attempts.append(attempt)
        reply = self.client.put(self.bucket, key, state.data(), x_amz_meta_n=state.note, if_none_match="*")
        attempt.acknowledged = reply.status == 200
        if reply.status not in (200, 409, 412, 503):
            raise Wrong(f"race {key}: {reply.status} {reply.body[:200]!r}")
        self.report.counts["race won" if reply.status == 200 else "race lost"] += 1

    def count_up(self) -> None:
        """A counter that everybody raises by compare-and-swap; the value is the size of the object."""
        key = "counter"
        now = self.client.get(self.bucket, key)
        if now.status == 404:
            value, headers = 1, {"if_none_match": "*"}
        elif now.status == 200:
            value, headers = int(now.headers["x-amz-meta-value"]) + 1, {"if_match": now.etag}
        elif now.status == 503:
            return
        else:
            raise Wrong(f"get {key}: {now.status} {now.body[:200]!r}")
        content = Content(next(self.numbers), 100 + value % 50)
        attempt = Attempt(key, value, content, None)
        self.report.attempts.append(attempt)
        reply = self.client.put(self.bucket, key, content.data(), x_amz_meta_value=str(value), **headers)
        attempt.acknowledged = reply.status == 200
        if reply.status not in (200, 404, 409, 412, 503):
            raise Wrong(f"count up {key}: {reply.status} {reply.body[:200]!r}")
        self.report.counts["counted" if reply.status == 200 else "count lost"] += 1

    # --- looking -----------------------------------------------------------------------------------------------

    def read_back(self, key: str) -> None:
        """Reads a key whole, sometimes a range of it too, and settles the model on it or raises `Wrong`."""
        model = self.keys[key]
        reply = self.client.get(self.bucket, key)
        if reply.status == 503:
            self.report.counts["get refused 503"] += 1
            return
        if reply.status not in (200, 404):
            raise Wrong(f"get {key}: {reply.status} {reply.code} {reply.body[:200]!r}; {model.admissible}")
        data = reply.body if reply.status == 200 else None
        wrong = model.observe(key, data, reply.headers.get("x-amz-meta-n", ""), reply.etag)
        if wrong:
            raise Wrong(wrong)
        self.report.counts["get"] += 1
        if data is not None and self.rng.random() < 0.3:
            first = self.rng.randrange(len(data))
            last = self.rng.randrange(first, len(data))
            part = self.client.get(self.bucket, key, range=f"bytes={first}-{last}")
            if part.status != 503 and (part.status != 206 or part.body != data[first : last + 1]):
                raise Wrong(f"get {key} bytes={first}-{last}: {part.status}, {len(part.body)} bytes, not those of the whole")

    def verify(self, everything: bool) -> Report:
        """After a restart, with nobody writing: reads what may have changed (or everything), ends or checks open
        uploads, and compares a listing with what was read."""
        self.report = Report()
        self.started.clear()
        sample = set(self.rng.sample(list(self.keys), len(self.keys) // 5))
        for key, model in self.keys.items():
            if everything or model.dirty or key in sample:
                self.attempt(lambda key=key: self.read_back(key))
                if model.dirty:
                    model.acknowledged(model.admissible[0])  # reported; carry on from something
        for upload in list(self.uploads):
            self.attempt(lambda upload=upload: self.verify_upload(upload))
        self.attempt(self.verify_listing)
        return self.report

    def attempt(self, look) -> None:
        try:
            look()
        except (Wrong, S3Failure, AssertionError) as wrong:
            self.report.wrong.append(str(wrong))
        except GONE as error:
            self.report.wrong.append(f"{self.name}: while nobody kills: {type(error).__name__}: {error}")

    def verify_upload(self, upload: UploadModel) -> None:
        status, listed = self.client.list_parts(self.bucket, upload.key, upload.upload)
        model = self.keys[upload.key]
        what = f"upload {upload.upload} of {upload.key}"
        if upload.ending == "complete":
            # Its completion had no answer. The key was read just now: the two must tell the same story.
            happened = model.settled == upload.completed_as
            if happened and status != 404:
                raise Wrong(f"{what}: completed, yet its parts are still listed ({status})")
            if not happened and status != 200:
                raise Wrong(f"{what}: gone ({status}), but the object was not made")
        elif upload.ending == "abort":
            if status not in (200, 404):
                raise Wrong(f"{what}: ListParts says {status}")
        elif status != 200:
            raise Wrong(f"{what}: ListParts says {status}; {len(upload.parts)} parts were acknowledged")
        upload.ending = ""
        if status != 200:
            self.uploads.remove(upload)
            return
        for number, (etag, content) in upload.parts.items():
            if listed.get(number) != (etag, content.size):
                raise Wrong(f"{what}: part {number} listed as {listed.get(number)}, acknowledged {(etag, content.size)}")
        for number in listed.keys() - upload.parts.keys():
            if number not in upload.doubtful or listed[number][1] != upload.doubtful[number].size:
                raise Wrong(f"{what}: part {number} is listed as {listed[number]}, nobody sent such a one")
        if not upload.parts or self.rng.random() < 0.3:
            self.abort(upload)
        elif self.rng.random() < 0.7:
            self.complete(upload, model)
            self.read_back(upload.key)

    def verify_listing(self) -> None:
        listed = self.client.list_all(self.bucket, prefix=f"{self.name}/", page=self.rng.choice([7, 100, 1000]))
        expected = {key: model for key, model in self.keys.items() if model.settled is not None}
        for key in listed.keys() - expected.keys():
            raise Wrong(f"{key}: listed, but a read finds nothing")
        for key, model in expected.items():
            if key not in listed:
                raise Wrong(f"{key}: can be read, but is not listed")
            etag, size = listed[key]
            if size != model.settled.size or (model.etag and etag != model.etag):
                raise Wrong(f"{key}: listed as {size} bytes {etag}, read as {model.settled.size} bytes {model.etag}")
        self.report.counts["listed"] += len(listed)


def main(pipe, index: int, threads: int, keys: int, port: int, bucket: str, seed: str) -> None:
    """The process: obeys `("run", shared keys)`, `("stop",)`, `("verify", everything)`, `("quit",)`."""
    lanes = [
        Lane(f"p{index}t{t}", port, bucket, seed, keys, number_base=(index * 64 + t + 1) << 40) for t in range(threads)
    ]
    stop = threading.Event()
    running: list[threading.Thread] = []
    total = Report()

    def together(call) -> Report:
        found = Report()
        lock = threading.Lock()

        def one(lane: Lane) -> None:
            report = _guarded(lane, call)
            with lock:
                found.add(report)

        crew = [threading.Thread(target=one, args=(lane,)) for lane in lanes]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        return found

    while True:
        order = pipe.recv()
        if order[0] == "run":
            stop.clear()
            total = Report()

            def load(shared=order[1]) -> None:
                total.add(together(lambda lane: lane.run(shared, stop)))

            running = [threading.Thread(target=load)]
            running[0].start()
            pipe.send("running")
        elif order[0] == "stop":
            stop.set()
            pipe.send("stopping")
        elif order[0] == "join":
            running[0].join()
            pipe.send(total)
        elif order[0] == "verify":
            pipe.send(together(lambda lane: lane.verify(order[1])))
        else:
            return


def _guarded(lane: Lane, call) -> Report:
    """A fault of the test itself is reported as loudly as one of the server."""
    try:
        return call(lane)
    except Exception as error:  # noqa: BLE001
        import traceback

        lane.report.wrong.append(f"{lane.name}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
        return lane.report
