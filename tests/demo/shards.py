"""raw → processed: WebDataset tars to stream from, a Parquet table to evaluate on, an index over both.

Runs as a client of the store only: it reads what was uploaded, never the files on this machine.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy
import pyarrow
import pyarrow.parquet
import webdataset

from .data import VARIANTS, grey, png, variant
from .store import PROCESSED, RAW, Store

SHARD_SAMPLES = 640
READERS = 8


def filesystem(endpoint: str):
    """pyarrow's own S3 client (the AWS C++ SDK)."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    from tests.harness import ACCESS_KEY, REGION, SECRET_KEY

    return S3FileSystem(
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, region=REGION,
        endpoint_override=endpoint.removeprefix("http://"), scheme="http",
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=10),
    )  # fmt: skip


def write_parquet(store: Store, bucket: str, key: str, table: pyarrow.Table) -> None:
    """Writes a table through pyarrow's filesystem, and into the ledger."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, row_group_size=256)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    store.ledger.begin(bucket, key, digest, len(data))
    with filesystem(store.endpoint).open_output_stream(f"{bucket}/{key}") as out:
        out.write(data)
    store.ledger.done(bucket, key, digest, len(data))
    store.count(sent=len(data))


def read_parquet(store: Store, bucket: str, key: str, columns: list[str]) -> pyarrow.Table:
    """Reads some columns through pyarrow's filesystem: footer first, then just those ranges."""
    with filesystem(store.endpoint).open_input_file(f"{bucket}/{key}") as source:
        table = pyarrow.parquet.read_table(source, columns=columns)
    store.count(received=table.nbytes)
    return table


def build(store: Store, progress) -> dict:
    """Makes the shards; returns the index, as written."""
    rows = list(csv.DictReader(io.StringIO(store.get(RAW, "labels.csv").decode())))
    with ThreadPoolExecutor(READERS) as pool:
        encoded = list(pool.map(lambda row: store.get(RAW, row["key"]), rows))
    photos = [grey(store.get(RAW, f"photos/{name}.jpg")) for name in ("china", "flower")]
    digits = [grey(data) for data in encoded]

    train = [(n, v) for n, row in enumerate(rows) if row["split"] == "train" for v in range(VARIANTS)]
    numpy.random.default_rng(1).shuffle(train)
    shards = []
    batches = [train[i : i + SHARD_SAMPLES] for i in range(0, len(train), SHARD_SAMPLES)]
    for number, batch in enumerate(batches):
        out = io.BytesIO()
        with webdataset.TarWriter(out, mtime=0) as tar:
            for source, which in batch:
                image = variant(digits[source], photos, numpy.random.default_rng([source, which]))
                sample = {"__key__": f"{source:05d}-{which:02d}", "png": png(image), "cls": int(rows[source]["label"])}
                tar.write(sample)
        key = f"train/shard-{number:04d}.tar"
        store.put(PROCESSED, key, out.getvalue())
        shards.append({"key": key, "samples": len(batch), "bytes": out.tell()})
        progress(number + 1, len(batches))

    test = [n for n, row in enumerate(rows) if row["split"] == "test"]
    images = [variant(digits[n], photos, numpy.random.default_rng([n, 999])).tobytes() for n in test]
    write_parquet(store, PROCESSED, "test/digits.parquet", pyarrow.table({
        "source": [rows[n]["key"] for n in test],
        "sha256": [hashlib.sha256(encoded[n]).hexdigest() for n in test],
        "label": pyarrow.array([int(rows[n]["label"]) for n in test], pyarrow.int8()),
        "image": pyarrow.array(images, pyarrow.binary()),
    }))  # fmt: skip
    index = {"shards": shards, "test": "test/digits.parquet"}
    store.put(PROCESSED, "index.json", json.dumps(index).encode())
    return index
