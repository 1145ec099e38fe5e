"""Drives deleted, corrupted and replaced: no wrong byte is served, and up to M drives nothing acknowledged is lost."""

from __future__ import annotations

import json
import random
import re
import shutil
import threading

import pytest

from tests.harness import Content, Server, boto3_client

from .damage import Population, delete_drive, files, flip, kinds

# Frees what is deleted soon, so that reclaim runs beside the damage.
QUICK = {"GRANARY_STORE_GARBAGE_QUARANTINE_MS": "200"}


@pytest.fixture
def own():
    with Server(env=QUICK, preset=None) as server:
        yield server


@pytest.fixture
def population(own):
    own.start()
    made = Population(own)
    made.create()
    made.fill(44)
    return made


def metric(server: Server, name: str) -> float:
    page = server.admin_get("/metrics")[1]
    return sum(float(v) for v in re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([0-9.e+]+)$", page, re.M))


def heal(server: Server, *more: str) -> str:
    done = server.cli("heal", *more)
    assert done.returncode == 0, f"heal {more}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{server.log_tail()}"
    return done.stdout


def spare(server: Server) -> int:
    said = server.cli("status", "--json")
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)["node"]["drives_spare"]


def replace(server: Server, drive, number: int) -> str:
    """Replaces the drive at a folder by a new folder."""
    new = server.data / f"new-{number}"
    new.mkdir()
    done = server.cli("drive", "replace", str(drive), str(new))
    assert done.returncode == 0, f"replace {drive}: {done.stdout}\n{done.stderr}\n{server.log_tail()}"
    return done.stdout


def test_two_drives_deleted_under_load_then_replaced(own, population):
    """The whole story: M drives go while clients write; nothing is lost; new drives are filled; M others go."""
    drives = own.drive_dirs()
    assert len(drives) == 6
    stop = threading.Event()
    threads = population.load(stop, "load")
    for drive in drives[:2]:
        delete_drive(drive)
        population.check(f"after {drive.name} was deleted under load", but="load")
    stop.set()
    for thread in threads:
        thread.join()
    assert not population.wrong, population.wrong[:5]
    population.check("after the load")
    own.kill()
    own.start()
    population.check("after kill -9 and a start without two drives")
    assert spare(own) == 0
    for number, drive in enumerate(drives[:2]):
        said = replace(own, drive, number)
        assert " 0 failed" in said and "is in use at" in said, said
    population.check("after two drives were replaced")
    assert spare(own) == 2
    own.stop()
    for drive in drives[2:4]:
        delete_drive(drive)
    own.start_with_its_own_list()
    population.check("after two other drives were deleted: what was rebuilt must carry")


def test_deleted_while_stopped(own, population):
    own.stop()
    for drive in own.drive_dirs()[4:]:
        delete_drive(drive)
    own.start()
    population.check("after a start without two drives")
    population.fill(22, prefix="degraded", may_refuse=True)
    population.check("after writes without two drives")
    own.kill()
    own.start()
    population.check("after kill -9 without two drives")


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_bits_flipped_in_segments(own, population, share):
    """Rot on M drives: reads are right, scrub finds it, heal mends it, and then M other drives may rot."""
    rng = random.Random(share)
    own.stop()
    drives = own.drive_dirs()
    flipped = sum(flip(path, rng, share) for drive in drives[:2] for path in files(drive, "segments"))
    assert flipped > 0, "there was nothing to damage"
    own.start()
    population.check(f"after {flipped} flipped bits on two drives")
    scrub = own.cli("drive", "scrub")
    assert "DAMAGED" in scrub.stdout, f"scrub saw nothing of {flipped} flipped bits:\n{scrub.stdout}{scrub.stderr}"
    said = heal(own, "--deep")
    assert " 0 failed" in said, said
    clean = own.cli("drive", "scrub")
    assert clean.returncode == 0 and "DAMAGED" not in clean.stdout, clean.stdout
    own.stop()
    for drive in drives[2:4]:
        for path in files(drive, "segments"):
            flip(path, rng, 0.5)
    own.start()
    population.check("after two other drives rotted: what was mended must carry")


def test_bits_flipped_while_running(own, population):
    """Rot under a running server, with readers and writers on it: a damaged chunk is rebuilt on the way out."""
    rng = random.Random(5)
    stop = threading.Event()
    threads = population.load(stop, "load")
    flipped = sum(flip(path, rng, 0.3) for drive in own.drive_dirs()[1:3] for path in files(drive, "segments"))
    population.check(f"after {flipped} bits were flipped under load", but="load")
    stop.set()
    for thread in threads:
        thread.join()
    assert not population.wrong, population.wrong[:5]
    population.check("after the load")
    assert metric(own, "granary_store_rebuilt_chunks_total") > 0, "damage was read, yet nothing was rebuilt"
    assert metric(own, "granary_store_lost_chunks_total") == 0


def test_more_than_m_drives_rotten_is_an_error_never_wrong_bytes(own, population):
    """Beyond what the scheme carries, the answer is an error or a broken-off body, never bytes that are not right."""
    rng = random.Random(6)
    own.stop()
    for drive in own.drive_dirs()[:4]:
        for path in files(drive, "segments"):
            flip(path, rng, 1.0)
    own.start()
    client = population.client()
    failed = 0
    for key, (content,) in population.admissible.items():
        try:
            reply = client.get(population.bucket, key)
        except Exception as error:  # noqa: BLE001 - a body broken off: IncompleteRead, a reset connection
            assert type(error).__name__ in ("IncompleteRead", "RemoteDisconnected", "ConnectionResetError"), error
            failed += 1
            continue
        if reply.status == 200:
            assert reply.body == content.data(), f"{key}: wrong bytes were served"
        else:
            assert reply.status in (500, 503), f"{key}: {reply.status} {reply.code}: lost data must not look absent"
            failed += 1
    assert failed > 0, "four rotten drives of six, and every object could be read?"


@pytest.mark.parametrize(
    "how", ["flip", "delete", pytest.param("zero", marks=pytest.mark.slow), pytest.param("truncate", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", ["index", "meta", "drive.json", "everything"])
def test_anything_on_m_drives(own, population, kind, how):
    """All files of a kind on M drives are spoilt while the server is down (after a kill -9, so that the log matters)."""
    rng = random.Random(f"{kind}{how}")
    own.kill()
    spoilt = 0
    drives = own.drive_dirs()
    for drive in drives[:2]:
        for path in files(drive, kind):
            spoilt += 1
            if how == "flip":
                flip(path, rng, 0.2)
            elif how == "delete":
                path.unlink()
            else:
                size = path.stat().st_size
                with open(path, "r+b") as file:
                    if how == "truncate":
                        file.truncate(rng.randrange(size) if size else 0)
                    else:
                        file.write(bytes(min(size, 256 * 1024)))
    if not spoilt:
        pytest.skip(f"no {kind} on a drive; there are {kinds(drives[0])}")
    own.start()
    population.check(f"after {how} of {kind} ({spoilt} files) on two drives")
    population.fill(11, prefix="after", may_refuse=True)
    own.kill()
    own.start()
    population.check("after kill -9 and a second start")


def test_heal_survives_a_kill(own, population):
    """kill -9 in the midst of a repair: it is taken up again and comes to its end."""
    population.fill(60, prefix="more")
    drives = own.drive_dirs()
    delete_drive(drives[0])
    new = own.data / "new"
    new.mkdir()
    result = []
    thread = threading.Thread(target=lambda: result.append(own.cli("drive", "replace", str(drives[0]), str(new))))
    thread.start()
    thread.join(0.4)
    own.kill()
    thread.join()
    own.start_with_its_own_list()
    population.check("after kill -9 in a repair")
    taken = any(str(new) in drive["path"] for drive in json.loads(own.cli("drive", "list", "--json").stdout) if drive.get("path"))
    if taken:
        assert " 0 failed" in heal(own)
    else:
        for entry in new.iterdir():  # the kill came before the drive was taken in
            delete_drive(new)
            break
        said = own.cli("drive", "replace", str(drives[0]), str(new))
        assert said.returncode == 0, said.stdout + said.stderr
    assert spare(own) == 2
    population.check("after the repair was taken up again")
    own.stop()
    for drive in drives[1:3]:
        delete_drive(drive)
    own.start_with_its_own_list()
    population.check("after two other drives were deleted")


def test_index_rebuilt_from_the_drives_alone(own, population):
    """No log, no checkpoint, no index on any drive: refused in words, then rebuilt as far as the drives know."""
    s3 = boto3_client(own.endpoint)
    pieces = [Content(1 << 61 | n, 100_000 + n).data() for n in range(4)]
    for n, piece in enumerate(pieces):
        s3.put_object(Bucket=population.bucket, Key="appended/log", Body=piece, WriteOffsetBytes=sum(map(len, pieces[:n])))
    # Overwritten since: what was appended to the object of before is not appended to this one.
    s3.put_object(Bucket=population.bucket, Key="appended/anew", Body=pieces[0], WriteOffsetBytes=0)
    s3.put_object(Bucket=population.bucket, Key="appended/anew", Body=pieces[1], WriteOffsetBytes=len(pieces[0]))
    s3.put_object(Bucket=population.bucket, Key="appended/anew", Body=pieces[2])
    # A small append is in the log only.
    s3.put_object(Bucket=population.bucket, Key="appended/tail", Body=pieces[0], WriteOffsetBytes=0)
    s3.put_object(Bucket=population.bucket, Key="appended/tail", Body=b"tail", WriteOffsetBytes=len(pieces[0]))
    own.stop()
    for drive in own.drive_dirs():
        shutil.rmtree(drive / "meta")
    refused = own.run("dev", "--data", str(own.data), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert refused.returncode != 0 and "granary rebuild" in refused.stderr, refused.stdout + refused.stderr
    for drive in own.drive_dirs():
        shutil.rmtree(drive / "meta", ignore_errors=True)
    said = own.run("rebuild", "--data", str(own.data))
    assert said.returncode == 0 and "3 appended parts" in said.stdout, said.stdout + said.stderr
    own.start()
    for key, (content,) in population.admissible.items():
        if content.size <= 16 * 1024:
            population.admissible[key] = [None]
    population.check("after the index was rebuilt from the drives")
    read = lambda key: s3.get_object(Bucket=population.bucket, Key=key)["Body"].read()
    assert read("appended/log") == b"".join(pieces)
    assert read("appended/anew") == pieces[2]
    assert read("appended/tail") == pieces[0]
    again = own.run("rebuild", "--data", str(own.data))
    assert again.returncode != 0, "a rebuild beside a running node"
