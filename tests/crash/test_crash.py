"""kill -9 under mixed concurrent load, again and again: every acknowledged write is there afterwards, and nothing half-done.

`CRASH_KILLS` sets how many (default 15 in `make test`, 200 in `make soak`); `CRASH_SEED` repeats a run's choices.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.harness import Server

from .driver import CrashRun


# What is deleted or orphaned is freed within the test, so that freeing too is hit by kills.
QUICK = {
    "GRANARY_STORE_GARBAGE_QUARANTINE_MS": "200",
    "GRANARY_STORE_ORPHAN_GRACE_MS": "1000",
    "GRANARY_STORE_SWEEP_INTERVAL_MS": "500",
}


def crash(kills: int, **server_options) -> None:
    seed = os.environ.get("CRASH_SEED") or f"{random.SystemRandom().getrandbits(48):x}"
    print(f"crash: seed {seed} (CRASH_SEED={seed} repeats it), {kills} kills")
    with Server(env=QUICK, **server_options) as server:
        run = CrashRun(server, seed)
        try:
            run.run(kills)
        finally:
            run.close()


def test_kill_under_load():
    """A few kills: the quick variant, in every `make test`."""
    crash(int(os.environ.get("CRASH_KILLS", "15")))


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_kill_under_load_200():
    """The long one: `make soak`."""
    crash(max(200, int(os.environ.get("CRASH_KILLS", "200"))))


def test_no_parity_single_drive():
    """One drive, no parity (`--erasure 1+0`): durability does not lean on redundancy."""
    crash(int(os.environ.get("CRASH_KILLS_SINGLE", "5")), drives=1, erasure="1+0")
