"""What training loops read and write through, each doing its main job: `python loops.py NAME ENDPOINT BUCKET`.

Runs in an environment of its own (tests/requirements-loops.txt). Keys and region come from the environment. Prints `fine`; ends with
77 where the client is not installed. Bytes are compared, not only counted.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import sys
import tempfile
from pathlib import Path

MIB = 1 << 20


def content(number: int, size: int) -> bytes:
    return hashlib.shake_256(number.to_bytes(8, "little")).digest(size)


def need(*names: str):
    try:
        found = [importlib.import_module(name) for name in names]
    except ImportError as missing:
        print(f"not installed: {missing}")
        sys.exit(77)
    return found[0] if len(found) == 1 else found


def s3():
    import boto3
    from botocore.config import Config

    return boto3.client("s3", endpoint_url=sys.argv[2], config=Config(s3={"addressing_style": "path"}))


def torch_config(path_style: bool = True):
    import s3torchconnector

    return s3torchconnector.S3ClientConfig(force_path_style=path_style, part_size=5 * MIB)


def s3torchconnector_datasets(endpoint: str, bucket: str) -> None:
    torch, connector = need("torch", "s3torchconnector")
    wanted = {f"data/{n:03}": content(n, 50_000 + n * 997) for n in range(40)}
    for key, data in wanted.items():
        s3().put_object(Bucket=bucket, Key=key, Body=data)
    more = {"region": os.environ["AWS_REGION"], "endpoint": endpoint, "s3client_config": torch_config()}
    by_map = connector.S3MapDataset.from_prefix(f"s3://{bucket}/data/", transform=read_whole, **more)
    assert len(by_map) == 40 and dict(by_map[n] for n in (0, 17, 39)) == {k: wanted[k] for k in ("data/000", "data/017", "data/039")}
    for constructor in ("sequential", "range"):
        reader = getattr(connector.S3ReaderConstructor, "range_based" if constructor == "range" else "sequential")()
        iterable = connector.S3IterableDataset.from_prefix(
            f"s3://{bucket}/data/", transform=read_whole, enable_sharding=True, reader_constructor=reader, **more)
        loader = torch.utils.data.DataLoader(iterable, batch_size=None, num_workers=2)
        assert dict(loader) == wanted, constructor


def read_whole(reader) -> tuple[str, bytes]:
    return reader.key, reader.read()


def s3torchconnector_checkpoints(endpoint: str, bucket: str) -> None:
    torch, connector = need("torch", "s3torchconnector")
    region = os.environ["AWS_REGION"]
    model = torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.Linear(2048, 1024))
    checkpoint = connector.S3Checkpoint(region=region, endpoint=endpoint, s3client_config=torch_config())
    with checkpoint.writer(f"s3://{bucket}/run/step_1.pt") as writer:
        torch.save(model.state_dict(), writer)
    with checkpoint.reader(f"s3://{bucket}/run/step_1.pt") as reader:
        back = torch.load(reader, weights_only=True)
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())

    from s3torchconnector.dcp import S3StorageReader, S3StorageWriter

    dcp = importlib.import_module("torch.distributed.checkpoint")
    more = {"region": region, "s3client_config": torch_config()}
    path = f"s3://{bucket}/run/step_2"
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    state = {"model": model.state_dict(), "step": 2}
    dcp.save(state, storage_writer=S3StorageWriter(path=path, **more), no_dist=True)
    empty = {"model": {name: torch.zeros_like(value) for name, value in model.state_dict().items()}, "step": 0}
    dcp.load(empty, storage_reader=S3StorageReader(path=path, **more), no_dist=True)
    assert empty["step"] == 2 and all(torch.equal(empty["model"][name], value) for name, value in model.state_dict().items())
    keys = [entry["Key"] for entry in s3().list_objects_v2(Bucket=bucket, Prefix="run/step_2/")["Contents"]]
    assert "run/step_2/.metadata" in keys and any(key.endswith(".distcp") for key in keys), keys


def webdataset_loader(endpoint: str, bucket: str) -> None:
    torch, webdataset = need("torch", "webdataset")
    samples = {f"{n:06d}": content(n, 3_000 + n) for n in range(400)}
    with tempfile.TemporaryDirectory() as folder:
        with webdataset.ShardWriter(f"{folder}/shard-%03d.tar", maxcount=50, verbose=0) as writer:
            for key, data in samples.items():
                writer.write({"__key__": key, "bin": data})
        shards = sorted(Path(folder).glob("*.tar"))
        for path in shards:
            s3().upload_file(str(path), bucket, path.name)
    urls = [f"pipe:aws --endpoint-url {endpoint} s3 cp s3://{bucket}/{path.name} -" for path in shards]
    dataset = webdataset.WebDataset(urls, shardshuffle=8, nodesplitter=webdataset.split_by_node).decode().to_tuple("__key__", "bin")
    found: list[tuple[str, bytes]] = []
    for keys, blobs in torch.utils.data.DataLoader(dataset.batched(16), batch_size=None, num_workers=3):
        found += zip(keys, blobs)
    assert len(found) == len(samples) and dict(found) == samples


def mosaicml_streaming(endpoint: str, bucket: str) -> None:
    streaming = need("streaming")
    os.environ["S3_ENDPOINT_URL"] = endpoint
    with tempfile.TemporaryDirectory() as local:
        out = f"s3://{bucket}/mds"
        with streaming.MDSWriter(out=out, columns={"n": "int", "data": "bytes"}, compression=None, hashes=["sha1"], size_limit=1 << 20) as writer:
            for n in range(500):
                writer.write({"n": n, "data": content(n, 9_000)})
        dataset = streaming.StreamingDataset(remote=out, local=f"{local}/cache", shuffle=True, shuffle_seed=3, batch_size=8, validate_hash="sha1")
        assert len(dataset) == 500
        seen = {sample["n"]: sample["data"] for sample in dataset}
        assert seen == {n: content(n, 9_000) for n in range(500)}


def torchdata_nodes(endpoint: str, bucket: str) -> None:
    nodes = need("torchdata.nodes")
    wanted = {f"td/{n:03}": content(n, 20_000) for n in range(64)}
    for key, data in wanted.items():
        s3().put_object(Bucket=bucket, Key=key, Body=data)
    client = s3()

    def fetch(key: str) -> tuple[str, bytes]:
        return key, client.get_object(Bucket=bucket, Key=key)["Body"].read()

    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket, Prefix="td/")["Contents"]]
    node = nodes.ParallelMapper(nodes.IterableWrapper(keys), fetch, num_workers=4, method="thread", in_order=True)
    loader = nodes.Loader(nodes.Batcher(node, batch_size=8))
    batches = list(loader)
    assert [key for batch in batches for key, _ in batch] == sorted(wanted) and dict(sum(batches, [])) == wanted
    # Resumed from a state dict within the epoch, it goes on where it was.
    half = iter(loader)
    first = [next(half) for _ in range(3)]
    state = loader.state_dict()
    again = nodes.Loader(nodes.Batcher(nodes.ParallelMapper(nodes.IterableWrapper(keys), fetch, num_workers=4, method="thread"), batch_size=8))
    again.load_state_dict(state)
    assert first + list(again) == batches


def huggingface_datasets(endpoint: str, bucket: str) -> None:
    datasets, _ = need("datasets", "s3fs")
    where = {"endpoint_url": endpoint}
    made = datasets.Dataset.from_dict({"id": list(range(5000)), "text": [f"row {n}" for n in range(5000)]})
    buffer = io.BytesIO()
    made.to_parquet(buffer)
    s3().put_object(Bucket=bucket, Key="hf/part-0.parquet", Body=buffer.getvalue())
    options = lambda: {"client_kwargs": where}  # noqa: E731  a new one each time: load_dataset writes into it
    streamed = datasets.load_dataset("parquet", data_files=f"s3://{bucket}/hf/*.parquet", split="train", streaming=True, storage_options=options())
    assert [row["id"] for row in streamed] == list(range(5000))
    made.save_to_disk(f"s3://{bucket}/hf-saved", storage_options=options(), num_shards=3)
    back = datasets.load_from_disk(f"s3://{bucket}/hf-saved", storage_options=options())
    assert back.num_rows == 5000 and back[4321]["text"] == "row 4321"


def s3fs_files(endpoint: str, bucket: str) -> None:
    s3fs = need("s3fs")
    fs = s3fs.S3FileSystem(client_kwargs={"endpoint_url": endpoint})
    data = content(1, 17 * MIB + 3)
    with fs.open(f"{bucket}/fs/big", "wb", block_size=5 * MIB) as file:  # a multipart upload
        file.write(data)
    assert fs.size(f"{bucket}/fs/big") == len(data) and fs.cat_file(f"{bucket}/fs/big", start=100, end=200) == data[100:200]
    with fs.open(f"{bucket}/fs/big", "rb", block_size=MIB) as file:
        file.seek(9 * MIB - 7)
        assert file.read(MIB) == data[9 * MIB - 7 : 10 * MIB - 7]
    fs.pipe({f"{bucket}/fs/d/{n}": content(n, 100) for n in range(30)})
    assert fs.cat(f"{bucket}/fs/d/*") == {f"{bucket}/fs/d/{n}": content(n, 100) for n in range(30)}
    assert fs.glob(f"{bucket}/fs/d/1*") == sorted(f"{bucket}/fs/d/{n}" for n in range(30) if str(n).startswith("1"))
    fs.copy(f"{bucket}/fs/big", f"{bucket}/fs/copy")
    fs.mv(f"{bucket}/fs/copy", f"{bucket}/fs/moved")
    assert fs.info(f"{bucket}/fs/moved")["size"] == len(data) and not fs.exists(f"{bucket}/fs/copy")
    fs.rm(f"{bucket}/fs", recursive=True)
    assert not fs.exists(f"{bucket}/fs")


def zarr_fsspec(endpoint: str, bucket: str) -> None:
    zarr, numpy, _ = need("zarr", "numpy", "s3fs")
    options = {"client_kwargs": {"endpoint_url": endpoint}}
    data = numpy.arange(300 * 200, dtype="float64").reshape(300, 200)
    root = zarr.open_group(f"s3://{bucket}/z.zarr", mode="w", storage_options=options)
    array = root.create_array("a", shape=data.shape, chunks=(50, 40), dtype="float64")
    array[:] = data
    array[10:20, 5:9] = -1
    back = zarr.open_group(f"s3://{bucket}/z.zarr", mode="r", storage_options=options)["a"]
    data[10:20, 5:9] = -1
    assert numpy.array_equal(back[:], data) and numpy.array_equal(back[33:120, 7], data[33:120, 7])


def tensorflow_records(endpoint: str, bucket: str) -> None:
    """TensorFlow reads TFRecords that it has written; its own S3 file system left the core, so the files go through boto3."""
    tensorflow = need("tensorflow")
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(3):
            with tensorflow.io.TFRecordWriter(f"{folder}/{shard}.tfrecord") as writer:
                for n in range(200):
                    feature = tensorflow.train.Feature(bytes_list=tensorflow.train.BytesList(value=[content(shard * 200 + n, 2_000)]))
                    writer.write(tensorflow.train.Example(features=tensorflow.train.Features(feature={"x": feature})).SerializeToString())
            s3().upload_file(f"{folder}/{shard}.tfrecord", bucket, f"tf/{shard}.tfrecord")
        urls = [s3().generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": f"tf/{n}.tfrecord"}) for n in range(3)]
        paths = [tensorflow.keras.utils.get_file(origin=url, fname=f"again-{n}.tfrecord", cache_dir=folder) for n, url in enumerate(urls)]
        spec = {"x": tensorflow.io.FixedLenFeature([], tensorflow.string)}
        read = tensorflow.data.TFRecordDataset(paths, num_parallel_reads=3).map(lambda raw: tensorflow.io.parse_single_example(raw, spec)["x"])
        found = {value.numpy() for value in read}
    assert found == {content(n, 2_000) for n in range(600)}


def dali_webdataset(endpoint: str, bucket: str) -> None:
    """DALI on the CPU: its S3 reader, where the build has it, over raw files."""
    dali = need("nvidia.dali")
    fn = importlib.import_module("nvidia.dali.fn")
    wanted = {f"dali/{n:03}.bin": content(n, 4_000) for n in range(32)}
    for key, data in wanted.items():
        s3().put_object(Bucket=bucket, Key=key, Body=data)
    os.environ["AWS_ENDPOINT_URL"] = endpoint

    @dali.pipeline_def(batch_size=8, num_threads=2, device_id=None)
    def pipeline():
        data, label = fn.readers.file(file_root=f"s3://{bucket}/dali", files=sorted(key.removeprefix("dali/") for key in wanted), name="r")
        return data, label

    pipe = pipeline()
    pipe.build()
    found = []
    for _ in range(4):
        data, _ = pipe.run()
        found += [bytes(data.at(i)) for i in range(8)]
    assert found == [wanted[key] for key in sorted(wanted)]


CLIENTS = {
    function.__name__: function
    for function in (
        s3torchconnector_datasets, s3torchconnector_checkpoints, webdataset_loader, mosaicml_streaming, torchdata_nodes,
        huggingface_datasets, s3fs_files, zarr_fsspec, tensorflow_records, dali_webdataset,
    )
}  # fmt: skip

if __name__ == "__main__":
    if len(sys.argv) == 1:
        print("\n".join(CLIENTS))
    else:
        CLIENTS[sys.argv[1]](*sys.argv[2:])
        print("fine")
