"""Batches by way of several worker processes, each streaming shards with webdataset.

Even shards come through webdataset's own `pipe:` opener (`s5cmd cat`), odd ones through boto3 (`s3:` registered as
an opener, as webdataset's documentation has it). The order is a function of epoch and seed only, so that a resumed
run goes on with just the batch the killed one would have had next.
"""

from __future__ import annotations

import multiprocessing
import queue
import shutil
import time
from urllib.parse import urlparse

import numpy

from tests.harness import boto3_client

BATCH = 128
QUEUE_SHARDS = 2
SHARD_TRIES_SECONDS = 90.0


def epoch_order(shards: list[dict], epoch: int) -> list[int]:
    return [int(i) for i in numpy.random.default_rng([11, epoch]).permutation(len(shards))]


def plan(shards: list[dict], epochs: int) -> list[tuple[int, int]]:
    """(epoch, shard) in the order they are trained on."""
    return [(epoch, shard) for epoch in range(epochs) for shard in epoch_order(shards, epoch)]


def steps_of(shard: dict) -> int:
    return shard["samples"] // BATCH


class Loader:
    """Iterates over (images, labels) from step `start` on. `wait_seconds` is the time the caller stood waiting."""

    def __init__(self, endpoint: str, bucket: str, shards: list[dict], epochs: int, start: int, workers: int) -> None:
        self.shards = shards
        self.wait_seconds = 0.0
        self.bytes = 0
        todo = plan(shards, epochs)
        while todo and start >= steps_of(shards[todo[0][1]]):
            start -= steps_of(shards[todo.pop(0)[1]])
        self.todo, self.skip = todo, start
        context = multiprocessing.get_context("spawn")
        self.queues = [context.Queue(QUEUE_SHARDS) for _ in range(workers)]
        self.processes = []
        for index, line in enumerate(self.queues):
            mine = [(shards[shard], epoch, shard) for epoch, shard in todo[index::workers]]
            process = context.Process(target=_worker, args=(endpoint, bucket, mine, line), daemon=True)
            process.start()
            self.processes.append(process)

    def __iter__(self):
        for number, (epoch, shard) in enumerate(self.todo):
            which = number % len(self.queues)
            begun = time.perf_counter()
            images, labels = self._next(which)
            self.wait_seconds += time.perf_counter() - begun
            self.bytes += self.shards[shard]["bytes"]
            order = numpy.random.default_rng([13, epoch, shard]).permutation(len(labels))
            for batch in range(self.skip if number == 0 else 0, steps_of(self.shards[shard])):
                chosen = order[batch * BATCH : (batch + 1) * BATCH]
                yield images[chosen], labels[chosen]

    def _next(self, which: int):
        while True:
            try:
                found = self.queues[which].get(timeout=1.0)
            except queue.Empty:
                if not self.processes[which].is_alive():
                    raise RuntimeError(f"loader worker {which} died") from None
                continue
            if isinstance(found, str):
                raise RuntimeError(found)
            return found


def _worker(endpoint: str, bucket: str, mine: list, line) -> None:
    s3 = boto3_client(endpoint, retries=10)
    open_s3 = _opener(s3)
    for shard, _, number in mine:
        deadline = time.monotonic() + SHARD_TRIES_SECONDS
        while True:
            try:
                line.put(_read(open_s3, endpoint, bucket, shard, number))
                break
            except Exception as error:  # noqa: BLE001 - whatever a client raises while its server is away
                if time.monotonic() > deadline:
                    line.put(f"{shard['key']}: {type(error).__name__}: {error}")
                    return
                time.sleep(0.2)


def _opener(s3):
    def open_s3(url, mode="rb", bufsize=8192):
        parts = urlparse(url)
        return s3.get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"]

    return open_s3


def _read(open_s3, endpoint: str, bucket: str, shard: dict, number: int):
    import webdataset
    from webdataset.gopen import gopen_schemes

    gopen_schemes["s3"] = open_s3
    url = f"s3://{bucket}/{shard['key']}"
    if number % 2 == 0 and shutil.which("s5cmd"):
        url = f"pipe:s5cmd --endpoint-url {endpoint} --retry-count 10 cat {url}"
    samples = webdataset.WebDataset([url], shardshuffle=False).decode("l8").to_tuple("png", "cls")
    images, labels = zip(*samples)
    if len(labels) != shard["samples"]:
        raise RuntimeError(f"{shard['key']}: {len(labels)} samples, {shard['samples']} written")
    return numpy.stack(images).reshape(len(labels), -1), numpy.array(labels, numpy.int64)
