"""Full drives: new data is refused in clear words, reads and deletes go on, a kill and a start work, space comes back."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.harness import Server, scratch_dir

from .damage import MIB, Population

DRIVES = 6
SMALL = {
    "GRANARY_DRIVES_SEGMENT_BYTES": str(8 * MIB),
    "GRANARY_DRIVES_RESERVE_BYTES": str(32 * MIB),
    "GRANARY_DRIVES_LOG_FILE_BYTES": str(16 * MIB),
    "GRANARY_STORE_GARBAGE_QUARANTINE_MS": "200",
}
PUTS_MAX = 2_000
SPACE_BACK_TRIES = 240


@pytest.fixture
def limited():
    """Drives that may hold 96 MiB each, by setting."""
    with Server(env=SMALL | {"GRANARY_DRIVES_LIMIT_BYTES": str(96 * MIB)}, preset=None) as server:
        yield server


@pytest.fixture
def mounted():
    """Drives that are small file systems: real ENOSPC, on everything that is written, the log and the index too."""
    home = scratch_dir("granary-full-")
    mounts: list[Path] = []
    try:
        for number in range(DRIVES):
            image, point = home / f"image{number}", home / f"drive{number}"
            with open(image, "wb") as file:
                file.truncate(256 * MIB)
            point.mkdir()
            made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], capture_output=True, text=True)
            put = subprocess.run(["mount", "-o", "loop", str(image), str(point)], capture_output=True, text=True)
            if made.returncode or put.returncode:
                pytest.skip(f"no loop mounts here: {made.stderr or put.stderr}")
            mounts.append(point)
            shutil.rmtree(point / "lost+found", ignore_errors=True)
        config = home / "granary.toml"
        with Server(env=SMALL, preset=None, config=config) as server:
            paths = ", ".join(f'"{point}"' for point in mounts)
            config.write_text(
                f'[node]\ndata_dir = "{home / "node"}"\n[drives]\npaths = [{paths}]\nerasure = "4+2"\n'
                f'[s3]\nlisten = "127.0.0.1:{server.port}"\nplaintext = true\n[admin]\nlisten = "127.0.0.1:{server.admin_port}"\n'
            )
            server.data = home
            yield server
    finally:
        for point in mounts:
            subprocess.run(["umount", str(point)], check=False)
        shutil.rmtree(home, ignore_errors=True)


def fill_up(population: Population) -> None:
    """Writes until it is refused, large objects first, then ever smaller ones."""
    client = population.client()
    number = 0
    for size in (8 * MIB, 2 * MIB, 300_000, 100_000):
        refused = 0
        while refused < 3:
            number += 1
            assert number < PUTS_MAX, "it never got full"
            status = population.put(client, f"full/{number:05d}", size)
            assert status != 0, f"the connection broke on a full disk\n{population.server.log_tail()}"
            refused += status != 200
    assert population.refused, "nothing was refused"
    for status, code in population.refused:
        assert status in (503, 507) and code, f"a full disk answered {status} {code}"


def room_again(population: Population) -> None:
    """Deletes half; waits (boundedly) until a large PUT is taken again."""
    client = population.client()
    for number, key in enumerate(sorted(population.admissible)):
        if number % 2:
            reply = client.delete(population.bucket, key)
            assert reply.status == 204, f"DELETE on a full disk: {reply.status} {reply.body!r}\n{population.server.log_tail()}"
            population.admissible[key] = [None]
    for _ in range(SPACE_BACK_TRIES):
        if population.put(client, "again", 8 * MIB) == 200:
            return
        time.sleep(0.25)
    raise AssertionError(f"deleting half gave no room for 8 MiB: {population.refused[-1]}\n{population.server.log_tail()}")


def story(server: Server) -> None:
    server.start()
    population = Population(server)
    population.create()
    population.fill(11)
    fill_up(population)
    population.check("when full")
    server.kill()
    server.start()
    population.check("after kill -9 and a start on full drives")
    room_again(population)
    population.check("after deletes")
    server.kill()
    server.start()
    population.check("after another kill -9")
    fill_up(population)
    population.check("when full a second time")
    assert server.stop() == 0
    server.start()
    population.check("after SIGTERM on full drives")
    room_again(population)
    population.check("at the end")


def test_limit(limited):
    story(limited)


@pytest.mark.skipif(os.geteuid() != 0, reason="loop mounts need root")
def test_full_file_systems(mounted):
    story(mounted)


@pytest.mark.skipif(os.geteuid() != 0, reason="loop mounts need root")
def test_foreign_files_fill_the_file_system(mounted):
    """Somebody else takes all that is left, the reserve too: the server refuses writes, and nothing is lost."""
    mounted.start()
    population = Population(mounted)
    population.create()
    population.fill(22)
    hogs = []
    for number in range(DRIVES):
        hog = mounted.data / f"drive{number}" / "hog"
        hogs.append(hog)
        with open(hog, "wb") as file:
            try:
                while True:
                    file.write(bytes(MIB))
                    file.flush()
            except OSError:
                pass
    client = population.client()
    for number in range(40):
        status = population.put(client, f"hogged/{number}", 2 * MIB)
        assert status in (200, 503, 507), f"{status} {population.refused[-1:]}\n{mounted.log_tail()}"
    population.check("with foreign files on the drives")
    for hog in hogs:
        hog.unlink()
    mounted.kill()
    mounted.start()
    population.check("after kill -9, the foreign files gone")
    population.fill(11, prefix="after")
    population.check("at the end")
