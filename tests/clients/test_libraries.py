"""Libraries that training code reads and writes through: webdataset, pyarrow, obstore (Rust object_store), and where
installed polars, deltalake, Lance and tensorstore. Each does its main job unmodified; the bytes are compared."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.harness import ACCESS_KEY, REGION, SECRET_KEY, Content

MIB = 1024 * 1024


# --- webdataset ------------------------------------------------------------------------------------------------


def test_webdataset(env, server, s3, bucket, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    samples = {f"{n:06d}": Content(n, 100 + 997 * (n % 13)).data() for n in range(300)}
    with webdataset.ShardWriter(str(tmp_path / "shard-%03d.tar"), maxcount=70, verbose=0) as writer:
        for key, data in samples.items():
            writer.write({"__key__": key, "bin": data, "cls": int(key) % 10})
    shards = sorted(tmp_path.glob("*.tar"))
    for path in shards:
        s3.upload_file(str(path), bucket, path.name)
    presigned = [s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": p.name}) for p in shards]
    openers = {"presigned, by its curl opener": presigned} if shutil.which("curl") else {}
    if shutil.which("s5cmd"):
        openers["pipe:s5cmd"] = [f"pipe:s5cmd cat s3://{bucket}/{p.name}" for p in shards]
    openers["pipe:aws"] = [f"pipe:aws s3 cp s3://{bucket}/{p.name} -" for p in shards]
    for what, urls in openers.items():
        code = (
            "import sys, hashlib, webdataset as w\n"
            "d = w.WebDataset(sys.argv[1:], shardshuffle=False).decode().to_tuple('__key__', 'bin', 'cls')\n"
            "for k, b, c in d: print(k, hashlib.sha256(b).hexdigest(), c)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, *urls], env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{what}: {done.stderr[-2000:]}"
        import hashlib

        expected = [f"{key} {hashlib.sha256(data).hexdigest()} {int(key) % 10}" for key, data in samples.items()]
        assert done.stdout.splitlines() == expected, what


# --- pyarrow -----------------------------------------------------------------------------------------------------


@pytest.fixture
def arrow_fs(server):
    fs = pytest.importorskip("pyarrow.fs")
    return fs.S3FileSystem(
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, region=REGION,
        endpoint_override=server.endpoint.removeprefix("http://"), scheme="http",
    )  # fmt: skip


def test_pyarrow_files(arrow_fs, s3, bucket):
    data = Content(1, 23 * MIB + 7).data()
    with arrow_fs.open_output_stream(f"{bucket}/dir/big") as out:  # a multipart upload with CRC64NVME trailers
        for start in range(0, len(data), 3 * MIB):
            out.write(data[start : start + 3 * MIB])
    assert s3.get_object(Bucket=bucket, Key="dir/big")["Body"].read() == data
    with arrow_fs.open_input_stream(f"{bucket}/dir/big") as stream:
        assert stream.read() == data
    with arrow_fs.open_input_file(f"{bucket}/dir/big") as file:
        assert file.size() == len(data)
        assert file.read_at(1000, 5 * MIB - 500) == data[5 * MIB - 500 : 5 * MIB + 500]
    from pyarrow.fs import FileSelector, FileType

    assert [i.path for i in arrow_fs.get_file_info(FileSelector(bucket, recursive=True)) if i.type == FileType.File] == [
        f"{bucket}/dir/big"
    ]
    arrow_fs.copy_file(f"{bucket}/dir/big", f"{bucket}/dir/copy")
    arrow_fs.move(f"{bucket}/dir/copy", f"{bucket}/dir/moved")
    assert s3.get_object(Bucket=bucket, Key="dir/moved")["Body"].read() == data
    arrow_fs.delete_dir(f"{bucket}/dir")
    assert arrow_fs.get_file_info(f"{bucket}/dir/big").type == FileType.NotFound


def test_pyarrow_parquet_dataset(arrow_fs, bucket):
    import pyarrow
    import pyarrow.dataset
    import pyarrow.parquet

    rows = 60_000
    table = pyarrow.table({
        "id": pyarrow.array(range(rows)), "part": pyarrow.array([i % 4 for i in range(rows)], pyarrow.int32()),
        "text": [f"row {i * 2654435761 % 2**32}" for i in range(rows)],
    })  # fmt: skip
    pyarrow.dataset.write_dataset(
        table, f"{bucket}/table", filesystem=arrow_fs, format="parquet", partitioning=["part"], partitioning_flavor="hive"
    )
    back = pyarrow.dataset.dataset(f"{bucket}/table", filesystem=arrow_fs, partitioning="hive")
    assert back.count_rows() == rows
    assert back.to_table(columns=["id", "part", "text"]).sort_by("id").equals(table)
    some = back.to_table(columns=["text"], filter=(pyarrow.dataset.field("part") == 3) & (pyarrow.dataset.field("id") < 100))
    assert some.num_rows == 25


# --- obstore: the Rust object_store crate -----------------------------------------------------------------------


@pytest.fixture
def obstore_store(server, bucket):
    store = pytest.importorskip("obstore.store")
    return store.S3Store(
        bucket, endpoint=server.endpoint, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, region=REGION,
        virtual_hosted_style_request=False, client_options={"allow_http": True}, retry_config={"max_retries": 0},
    )  # fmt: skip


def test_obstore(obstore_store, s3, bucket):
    import obstore

    data = Content(2, 17 * MIB + 3).data()
    obstore.put(obstore_store, "a/big", data, chunk_size=5 * MIB)
    obstore.put(obstore_store, "a/small", b"small", attributes={"Content-Type": "text/x-a"})
    assert s3.get_object(Bucket=bucket, Key="a/big")["Body"].read() == data
    assert s3.head_object(Bucket=bucket, Key="a/small")["ContentType"] == "text/x-a"
    assert bytes(obstore.get(obstore_store, "a/big").bytes()) == data
    ranges = obstore.get_ranges(obstore_store, "a/big", starts=[0, 5 * MIB - 3, 70_000], ends=[10, 5 * MIB + 3, 70_100])
    assert [bytes(r) for r in ranges] == [data[:10], data[5 * MIB - 3 : 5 * MIB + 3], data[70_000:70_100]]
    tail = obstore.get(obstore_store, "a/big", options={"range": {"suffix": 100}}).bytes()
    assert bytes(tail) == data[-100:]
    listed = [m["path"] for batch in obstore.list(obstore_store, "a") for m in batch]
    assert sorted(listed) == ["a/big", "a/small"]
    assert obstore.list_with_delimiter(obstore_store)["common_prefixes"] == ["a"]
    obstore.copy(obstore_store, "a/small", "b/copy")
    obstore.rename(obstore_store, "b/copy", "b/renamed")
    assert bytes(obstore.get(obstore_store, "b/renamed").bytes()) == b"small"
    obstore.delete(obstore_store, ["a/big", "a/small", "b/renamed"])
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_obstore_conditions(obstore_store):
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    first = obstore.put(obstore_store, "k", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(obstore_store, "k", b"2", mode="create")
    second = obstore.put(obstore_store, "k", b"2", mode={"e_tag": first["e_tag"]})
    with pytest.raises(PreconditionError):
        obstore.put(obstore_store, "k", b"3", mode={"e_tag": first["e_tag"]})
    assert bytes(obstore.get(obstore_store, "k", options={"if_match": second["e_tag"]}).bytes()) == b"2"


def test_obstore_writer(obstore_store, s3, bucket):
    import obstore

    data = Content(3, 12 * MIB).data()
    with obstore.open_writer(obstore_store, "k", buffer_size=5 * MIB) as writer:
        for start in range(0, len(data), MIB):
            writer.write(data[start : start + MIB])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data
    reader = obstore.open_reader(obstore_store, "k")
    reader.seek(6 * MIB)
    assert bytes(reader.read(1000)) == data[6 * MIB : 6 * MIB + 1000]


# --- arrays and weights -------------------------------------------------------------------------------------------


def test_zarr_over_obstore(obstore_store):
    zarr = pytest.importorskip("zarr")
    import numpy

    store = zarr.storage.ObjectStore(obstore_store)
    data = numpy.random.default_rng(2).random((300, 200))
    array = zarr.open_group(store, mode="w").create_array("a", shape=data.shape, chunks=(50, 40), dtype="float64")
    array[:] = data
    array[10:20, 5:9] = -1
    data[10:20, 5:9] = -1
    back = zarr.open_group(zarr.storage.ObjectStore(obstore_store), mode="r")["a"]
    assert numpy.array_equal(back[:], data) and numpy.array_equal(back[33:120, 7], data[33:120, 7])


def test_safetensors_by_range(s3, bucket, tmp_path):
    """One tensor of many, read by its bytes alone: the header says where it lies."""
    safetensors = pytest.importorskip("safetensors.numpy")
    import json
    import struct

    import numpy

    rng = numpy.random.default_rng(4)
    tensors = {f"layer.{n}.weight": rng.random((64, 128 + n), numpy.float32) for n in range(30)}
    s3.put_object(Bucket=bucket, Key="model.safetensors", Body=safetensors.save(tensors, {"step": "7"}))

    def piece(first: int, last: int) -> bytes:
        return s3.get_object(Bucket=bucket, Key="model.safetensors", Range=f"bytes={first}-{last}")["Body"].read()

    (length,) = struct.unpack("<Q", piece(0, 7))
    header = json.loads(piece(8, 7 + length))
    assert header["__metadata__"] == {"step": "7"} and len(header) == 31
    for name in ("layer.0.weight", "layer.17.weight", "layer.29.weight"):
        start, end = header[name]["data_offsets"]
        found = numpy.frombuffer(piece(8 + length + start, 7 + length + end), numpy.float32).reshape(header[name]["shape"])
        assert numpy.array_equal(found, tensors[name]), name
    s3.download_file(bucket, "model.safetensors", str(tmp_path / "m"))
    assert all(numpy.array_equal(value, tensors[name]) for name, value in safetensors.load_file(tmp_path / "m").items())


# --- heavier ones: `make test-clients` ---------------------------------------------------------------------------


def options(server) -> dict[str, str]:
    return {
        "aws_endpoint_url": server.endpoint, "aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY,
        "aws_region": REGION, "aws_allow_http": "true", "allow_http": "true",
    }  # fmt: skip


def test_polars(server, bucket):
    polars = pytest.importorskip("polars", reason="polars is not installed (requirements-clients.txt)")
    frame = polars.DataFrame({"id": range(50_000), "name": [f"n{i}" for i in range(50_000)]})
    where = {k: v for k, v in options(server).items() if k.startswith("aws_")}
    frame.write_parquet(f"s3://{bucket}/frame.parquet", storage_options=where)
    some = polars.scan_parquet(f"s3://{bucket}/*.parquet", storage_options=where).filter(polars.col("id") > 49_990).collect()
    assert some["name"].to_list() == [f"n{i}" for i in range(49_991, 50_000)]


def commit_together(program: str, *arguments: str) -> list[list[int]]:
    """Runs a writer's program in four processes that begin together; what each of them says it has committed."""
    command = [sys.executable, "-c", program, *arguments]
    writers = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for n in range(4)]
    said = []
    for writer in writers:
        out, err = writer.communicate(timeout=600)
        assert writer.returncode == 0, err
        said.append([int(word) for word in out.split()])
    return said


COMMITS = 10
# Each writer appends rows that only it has, and says so when it was told that they are committed. A conflict that the library
# gives up on is tried again: what counts is that nothing it reports as done is lost.
DELTA_WRITER = """
import json, sys, pyarrow, deltalake
table, where, writer = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
for n in range(%d):
    row = writer * 1000 + n
    for _ in range(100):
        try:
            deltalake.write_deltalake(table, pyarrow.table({"id": [row]}), mode="append", storage_options=where)
            print(row, flush=True)
            break
        except deltalake.exceptions.CommitFailedError:
            continue
    else:
        sys.exit("a hundred conflicts for one commit")
""" % COMMITS
LANCE_WRITER = """
import json, sys, pyarrow, lance
table, where, writer = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
for n in range(%d):
    row = writer * 1000 + n
    for _ in range(100):
        try:
            lance.write_dataset(pyarrow.table({"id": [row]}), table, mode="append", storage_options=where)
            print(row, flush=True)
            break
        except OSError as conflict:
            if "onflict" not in str(conflict):
                raise
    else:
        sys.exit("a hundred conflicts for one commit")
""" % COMMITS


def committed(said: list[list[int]]) -> list[int]:
    assert said == [[writer * 1000 + n for n in range(COMMITS)] for writer in range(4)]
    return [row for rows in said for row in rows]


def test_deltalake(server, bucket):
    """Four writers at one table: commits are `If-None-Match: *` writes, so none is lost and none is there twice."""
    deltalake = pytest.importorskip("deltalake", reason="deltalake is not installed (requirements-clients.txt)")
    import pyarrow

    where = options(server) | {"conditional_put": "etag"}
    table = f"s3://{bucket}/delta"
    deltalake.write_deltalake(table, pyarrow.table({"id": [-1]}), storage_options=where)
    rows = committed(commit_together(DELTA_WRITER, table, json.dumps(where)))
    opened = deltalake.DeltaTable(table, storage_options=where)
    found = pyarrow.table(opened.to_pyarrow_table())["id"].to_pylist()
    assert sorted(found) == sorted([-1, *rows])
    assert opened.version() == len(rows), "each commit is a version of its own"


def test_lance(server, bucket):
    lance = pytest.importorskip("lance", reason="pylance is not installed (requirements-clients.txt)")
    import pyarrow

    where, uri = options(server), f"s3://{bucket}/set.lance"
    lance.write_dataset(pyarrow.table({"id": range(1000)}), uri, storage_options=where)
    lance.write_dataset(pyarrow.table({"id": range(1000, 2000)}), uri, mode="append", storage_options=where)
    back = lance.dataset(uri, storage_options=where)
    assert back.count_rows() == 2000 and back.take([5, 1500])["id"].to_pylist() == [5, 1500]


def test_lance_commits_of_four_writers(server, bucket):
    """As above for Lance, whose manifests are conditional puts too."""
    lance = pytest.importorskip("lance", reason="pylance is not installed (requirements-clients.txt)")
    import pyarrow

    where, uri = options(server), f"s3://{bucket}/busy.lance"
    lance.write_dataset(pyarrow.table({"id": [-1]}), uri, storage_options=where)
    rows = committed(commit_together(LANCE_WRITER, uri, json.dumps(where)))
    opened = lance.dataset(uri, storage_options=where)
    assert sorted(opened.to_table()["id"].to_pylist()) == sorted([-1, *rows])
    assert [v["version"] for v in opened.versions()] == list(range(1, len(rows) + 2)), "each commit is a version of its own"


def test_tensorstore(server, bucket, monkeypatch):
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed (requirements-clients.txt)")
    import numpy

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    spec = {
        "driver": "zarr3",
        "kvstore": {
            "driver": "s3", "bucket": bucket, "path": "array/", "endpoint": server.endpoint, "aws_region": REGION,
            "aws_credentials": {"type": "environment"},
        },
        "metadata": {
            "shape": [200, 200], "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [64, 64]}},
        },
    }  # fmt: skip
    data = numpy.random.default_rng(1).random((200, 200), numpy.float32)
    array = tensorstore.open(spec, create=True).result()
    array.write(data).result()
    again = tensorstore.open({"driver": "zarr3", "kvstore": spec["kvstore"]}).result()
    assert numpy.array_equal(again[10:150, 30:190].read().result(), data[10:150, 30:190])
    assert os.environ["AWS_ACCESS_KEY_ID"] and io
