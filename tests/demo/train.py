"""The trainer: a process of its own, killed and started again at any moment by the demo.

    python -m tests.demo.train ENDPOINT LEDGER EPOCHS WORKERS CHECKPOINT_EVERY

It knows nothing but the store: the index says what to train on, the checkpoints where to go on. It prints one JSON
line per event.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from .ledger import Ledger
from .loader import Loader, steps_of
from .network import Network
from .store import ARTEFACTS, PROCESSED, Store

KEEP = 3
PREFIX = "checkpoints/"


def say(**event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def complete_steps(store: Store) -> list[int]:
    """Steps whose checkpoint is whole: its marker, written last, is there."""
    keys = store.keys(ARTEFACTS, PREFIX)
    return sorted(int(key.split("/")[1].split("-")[1]) for key in keys if key.endswith("/COMPLETE"))


def folder(step: int) -> str:
    return f"{PREFIX}step-{step:06d}"


def save(store: Store, network: Network, losses: list[float]) -> None:
    """State first (a multipart upload), then the marker, which nobody may write twice; old ones go."""
    step = network.step
    say(event="saving", step=step)
    state = network.dump()
    store.put(ARTEFACTS, f"{folder(step)}/state.npz", state)
    marker = json.dumps({"step": step, "bytes": len(state), "losses": losses[-5:]}).encode()
    store.put(ARTEFACTS, f"{folder(step)}/COMPLETE", marker, IfNoneMatch="*")
    say(event="saved", step=step)
    for old in complete_steps(store)[:-KEEP]:
        for name in ("COMPLETE", "state.npz"):
            store.delete(ARTEFACTS, f"{folder(old)}/{name}")


def main() -> int:
    endpoint, ledger, epochs, workers, every = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    store = Store(endpoint, Ledger(Path(ledger)))
    index = json.loads(store.get(PROCESSED, "index.json"))
    steps = epochs * sum(steps_of(shard) for shard in index["shards"])
    found = complete_steps(store)
    network = Network()
    if found:
        network = Network.load(store.get(ARTEFACTS, f"{folder(found[-1])}/state.npz"))
        assert network.step == found[-1], f"checkpoint {found[-1]} holds step {network.step}"
    say(event="started", step=network.step, steps=steps, pid=os.getpid())
    loader = Loader(endpoint, PROCESSED, index["shards"], epochs, network.step, workers)
    losses: list[float] = []
    begun, waited = None, 0.0
    for images, labels in loader:
        losses.append(network.train(images, labels))
        if begun is None:  # the first batch has the workers' start in it: not part of a step
            begun, waited = time.perf_counter(), loader.wait_seconds
        done = network.step == steps
        if network.step % every == 0 or done:
            save(store, network, losses)
        say(
            event="step", step=network.step, loss=losses[-1],
            seconds=time.perf_counter() - begun, waited=loader.wait_seconds - waited,
        )  # fmt: skip
    assert network.step == steps, f"the data ended at step {network.step} of {steps}"
    say(event="finished", step=network.step, received=store.bytes_out + loader.bytes, sent=store.bytes_in)
    return 0


if __name__ == "__main__":
    sys.exit(main())
