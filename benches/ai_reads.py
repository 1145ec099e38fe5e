#!/usr/bin/env python3
"""Reads for AI work against the one-by-one way, on one server in one run (`make bench-ai`).

Both sides are `granary bench training`: the same client, the same samples, the same connections, taking turns; ratios are medians of
pairs of turns. What is compared with is the best that plain S3 allows: one range read for each sample of a shard, one GET for each
object. Bars are issue 4's. Environment: GRANARY_BIN, BENCH_SCALE, BENCH_DOCS=1 (write docs/benchmarks.md), as for `make bench`.
Exit status 1 if a bar is missed.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys

import harness as h

DRIVES, K, M = 6, 4, 2
# Shards whose samples fit into the cache twice over: both sides read from memory, so the way of asking is what differs.
SHARDS = ["--profile", "webdataset", "--sample-bytes", "10KiB", "--samples-per-object", "2048", "--data-size", "80MiB", "--prefix", "shards/"]
OBJECTS = ["--profile", "llm", "--sample-bytes", "1MiB", "--samples-per-object", "1", "--data-size", "64MiB", "--prefix", "objects/"]


class Loads:
    """Runs `granary bench training` and keeps what it said."""

    def __init__(self, server) -> None:
        self.server = server
        self.figures: list[dict] = []

    def run(self, what: list[str], by: str, accelerators: int, *more: str, readers: int = 1, batch: int = 128, seconds: float = 3.0) -> dict:
        side = h.side_of(self.server)
        command = [str(h.granary_server.find_binary()), "bench", "training", *what, "--by", by, "--accelerators", str(accelerators)]
        command += ["--readers", str(readers), "--batch", str(batch), "--seconds", str(h.scaled(seconds, 0.5)), "--json", "-"]
        command += ["--endpoint", side.url, "--server-pid", str(side.pid), *more]
        env = os.environ | {"AWS_ACCESS_KEY_ID": side.access, "AWS_SECRET_ACCESS_KEY": side.secret}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode not in (0, 1) or not done.stdout.startswith("{"):
            raise SystemExit(f"bench: {' '.join(command)}: {done.stderr.strip() or done.stdout[:500]}")
        (figures,) = json.loads(done.stdout)["runs"]
        figures["by"] = by
        self.figures.append(figures)
        print(f"  {by:8} {accelerators:4} x {readers} connections, batches of {batch}: {figures['samples_per_s']:10,.0f} samples/s, "
              f"{figures['utilisation_percent']:5.1f} % busy", flush=True)  # fmt: skip
        return figures

    def ratio(self, what: list[str], better: str, worse: str, connections: int, batch: int, rounds: int = 5) -> tuple[float, float, float]:
        """Samples/s of one way over the other's, and both medians; the order changes from turn to turn."""
        pairs = []
        for turn in range(rounds):
            rates = {}
            for by in (better, worse) if turn % 2 == 0 else (worse, better):
                rates[by] = self.run(what, by, connections, "--compute-ms", "0", "--busy", "0.000001", batch=batch)["samples_per_s"]
            pairs.append((rates[better], rates[worse]))
        return h.ratio(pairs), statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def epochs(loads: Loads, bars: h.Bars) -> None:
    """The number of accelerators at which single reads keep them less than half busy; there, epochs."""
    training = ["--compute-ms", "20"]
    for count in (1, 2, 4, 8, 16, 32, 64):
        single = loads.run(SHARDS, "range", count, *training, readers=2, seconds=5)
        if single["utilisation_percent"] < 50:
            break
    else:
        raise SystemExit("bench: single reads keep 64 accelerators busy: this machine is too fast for this test")
    epoch = loads.run(SHARDS, "epoch", count, *training, readers=2, seconds=5)
    bars.at_least(f"epochs at {count} accelerators (128 samples of 10 KiB, 20 ms), where single reads keep them "
                  f"{single['utilisation_percent']:.0f} % busy", epoch["utilisation_percent"], 90, "%", 1)  # fmt: skip


def main() -> int:
    started = datetime.datetime.now(datetime.timezone.utc)
    bars = h.Bars()
    with h.granary(drives=DRIVES, erasure=f"{K}+{M}", env={"GRANARY_AI_CACHE_BYTES": str(512 << 20)}) as server:
        loads = Loads(server)
        for what in (SHARDS, OBJECTS):
            side = h.side_of(server)
            env = os.environ | {"AWS_ACCESS_KEY_ID": side.access, "AWS_SECRET_ACCESS_KEY": side.secret}
            subprocess.run([str(h.granary_server.find_binary()), "bench", "training", *what, "--prepare-only", "--endpoint", side.url],
                           env=env, check=True)  # fmt: skip
        done = server.cli("dataset", "freeze", "granary-bench/shards/webdataset")
        if done.returncode:
            raise SystemExit(f"bench: {done.stderr}")
        for what, by in ((SHARDS, "batch"), (OBJECTS, "batch")):  # the indexes are made, the cache is warm
            loads.run(what, by, 1, "--compute-ms", "0", "--busy", "0.000001", batch=64)
        print("=== members of 10 KiB: batches of 128 against single reads")
        for connections, bar in ((1, 8.0), (16, 3.0)):
            found, many, one = loads.ratio(SHARDS, "batch", "range", connections, 128)
            bars.at_least(f"128 members of 10 KiB, {connections} connections: batch ({many:,.0f} samples/s) against single reads "
                          f"({one:,.0f} samples/s)", found, bar, "×")  # fmt: skip
        print("=== objects of 1 MiB: batches of 32 against single GETs")
        found, many, one = loads.ratio(OBJECTS, "batch", "object", 1, 32)
        bars.at_least(f"32 objects of 1 MiB, 1 connection: batch ({many:,.0f}/s) against single GETs ({one:,.0f}/s)", found, 1.3, "×")
        print("=== members against plain ranges")
        found, plain, member = loads.ratio(SHARDS, "range", "member", 1, 128)
        bars.at_most(f"time of a member read ({1e6 / member:.0f} µs) against a plain range read ({1e6 / plain:.0f} µs)", found, 1.2, "×")
        print("=== epochs against single reads")
        epochs(loads, bars)
    header = ["by", "accelerators", "busy %", "samples/s", "MB/s", "batch p50 ms", "p99 ms", "client cores", "server cores"]
    keys = ["by", "accelerators", "utilisation_percent", "samples_per_s", "mb_per_s", "batch_ms_p50", "batch_ms_p99", "client_cores",
            "server_cores"]  # fmt: skip
    rows = [[f"{f[k]:,.2f}" if isinstance(f[k], float) else str(f[k]) for k in keys] for f in loads.figures]
    body = "\n".join([
        f"{h.version(str(h.granary_server.find_binary()))}; {DRIVES} drives on one disk, {K}+{M}; read from the cache by both sides; "
        "client and server share the machine.", "", bars.markdown(), "", h.table(header, rows),
    ])  # fmt: skip
    missed = any(row[3] == "MISSED" for row in bars.rows)
    return h.finish_page("ai", "Reads for AI work against one by one", "make bench-ai", body, started) or int(missed)


if __name__ == "__main__":
    sys.exit(main())
