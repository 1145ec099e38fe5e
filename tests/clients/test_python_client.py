"""clients/python against the server, against plain S3 behaviour, and against answers that end early."""

from __future__ import annotations

import http.server
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.harness import ACCESS_KEY, REGION, SECRET_KEY, Content
from tests.harness.granary import make_tar

SOURCE = Path(__file__).resolve().parents[2] / "clients" / "python"
sys.path.insert(0, str(SOURCE / "src"))

from granary import Client, GranaryError, Incomplete, Item, Missing  # noqa: E402
from granary.torch import EpochDataset  # noqa: E402


def client(endpoint: str, **more) -> Client:
    return Client(endpoint, access_key=ACCESS_KEY, secret_key=SECRET_KEY, region=REGION, **more)


MEMBERS = {f"{n:03}.{field}": f"{n}{field}".encode() * n for n in range(20) for field in ("jpg", "cls")}


@pytest.mark.parametrize("fallback", [False, True])
def test_reads_are_the_same_by_either_way(server, s3, bucket, fallback):
    granary = client(server.endpoint, fallback=fallback)
    s3.put_object(Bucket=bucket, Key="a/b c+\u00fc.bin", Body=Content(1, 100_000).data())
    s3.put_object(Bucket=bucket, Key="s.tar", Body=make_tar(MEMBERS))
    items = [
        Item("a/b c+\u00fc.bin"), Item("s.tar", member="007.jpg"), Item("gone"), Item("s.tar", member="none"),
        Item("a/b c+\u00fc.bin", range=(10, 19), name="cut"), Item("s.tar", member="019.cls"),
    ]  # fmt: skip
    got = list(granary.batch(bucket, items))
    assert [(e.name, e.error) for e in got] == [
        ("a/b c+\u00fc.bin", None), ("007.jpg", None), ("gone", "NoSuchKey"), ("none", "NoSuchMember"), ("cut", None),
        ("019.cls", None),
    ]  # fmt: skip
    whole = Content(1, 100_000).data()
    assert [e.data for e in got] == [whole, MEMBERS["007.jpg"], b"", b"", whole[10:20], MEMBERS["019.cls"]]
    with pytest.raises(Missing):
        list(granary.batch(bucket, ["gone"], missing="fail"))
    assert granary.member(bucket, "s.tar", "003.cls") == MEMBERS["003.cls"]
    with pytest.raises(Missing):
        granary.member(bucket, "s.tar", "nothing")
    listed = list(granary.members(bucket, "s.tar"))
    assert [m.name for m in listed] == list(MEMBERS) and (listed[0].sample, listed[0].field) == ("000", "jpg")
    one = listed[14]
    assert granary.get(bucket, "s.tar", first=one.offset, last=one.offset + one.size - 1) == MEMBERS[one.name]


def test_batches_larger_than_one_request(server, s3, bucket, monkeypatch):
    monkeypatch.setattr("granary.client.ITEMS_MAX", 7)
    for n in range(20):
        s3.put_object(Bucket=bucket, Key=f"{n}", Body=str(n).encode())
    assert [e.data for e in client(server.endpoint).batch(bucket, (str(n) for n in range(20)))] == [str(n).encode() for n in range(20)]


def test_epochs_for_a_loader(server, s3, bucket):
    for shard in range(3):
        s3.put_object(Bucket=bucket, Key=f"d/{shard}.tar", Body=make_tar(MEMBERS))
    assert server.cli("dataset", "freeze", f"{bucket}/d").returncode == 0
    granary = client(server.endpoint)
    assert granary.dataset(bucket, "d/")["samples"] == 60
    seen = []
    for rank in range(2):
        for batch in granary.epoch(bucket, "d/", epoch=3, batch_size=8, seed=1, rank=rank, world_size=2):
            for sample in batch.samples:
                name = sample.key.rpartition("/")[2]
                assert sample.files == {field: MEMBERS[f"{name}.{field}"] for field in ("jpg", "cls")}
                seen.append(sample.key)
    assert len(seen) == len(set(seen)) == 60
    dataset = pickle.loads(pickle.dumps(EpochDataset(bucket, "d/", batch_size=8, seed=1, client=granary)))
    dataset.set_epoch(3)
    whole = [[s.key for s in samples] for samples in dataset]
    assert sorted(sum(whole, [])) == sorted(seen)
    dataset.set_epoch(3, start=5)
    assert [[s.key for s in samples] for samples in dataset] == whole[5:]


def test_latest(server, s3, bucket):
    granary = client(server.endpoint)
    with pytest.raises(Missing):
        granary.latest(bucket, "run")
    s3.put_object(Bucket=bucket, Key="run/step_5/.metadata", Body=b"")
    found = granary.latest(bucket, "run")
    assert (found.key, found.step, found.kind) == ("run/step_5/", 5, "folder")


def test_wrong_keys_are_an_error_not_a_fallback(server, bucket):
    other = Client(server.endpoint, access_key=ACCESS_KEY, secret_key="x" * 40, region=REGION)
    with pytest.raises(GranaryError) as refused:
        list(other.batch(bucket, ["a"]))
    assert refused.value.code == "SignatureDoesNotMatch"


class Broken(http.server.BaseHTTPRequestHandler):
    """Sends what it is told, and closes."""

    answer = b""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("x-granary-batch-items", "2")
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_):
        pass


WHOLE = make_tar({"a": b"x" * 700, "b": b"y"})


@pytest.mark.parametrize("answer", [WHOLE[:100], WHOLE[:1000], WHOLE[:1536], WHOLE[:2048], WHOLE[:2560],
                                    WHOLE[:3072], make_tar({"a": b"x"}), b"\1" + WHOLE[1:]])  # fmt: skip
def test_answers_that_end_early_are_never_taken_for_whole(answer):
    Broken.answer = answer
    with http.server.HTTPServer(("127.0.0.1", 0), Broken) as broken:
        threading.Thread(target=broken.serve_forever, daemon=True).start()
        with pytest.raises(Incomplete):
            list(client(f"http://127.0.0.1:{broken.server_port}").batch("b", ["a", "b"]))
        broken.shutdown()


def test_it_installs(tmp_path):
    pytest.importorskip("wheel")  # building needs it, and nothing is downloaded in tests
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(tmp_path / "t"),
         str(copied(tmp_path))], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = subprocess.run(
        [sys.executable, "-c", "import granary, granary.torch; print(granary.__file__)"],
        capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path / "t"), "PATH": "/usr/bin"},
    )  # fmt: skip
    assert str(tmp_path) in told.stdout, told.stderr


def copied(tmp_path: Path) -> Path:
    """The package outside of the clone: building leaves folders behind."""
    import shutil

    return Path(shutil.copytree(SOURCE, tmp_path / "source"))
