"""The crash test's hand: sets the workers loose, kills the server, starts it again, asks what is left."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter

from tests.harness import RawClient, Server
from tests.harness.content import describe

from .worker import Attempt, Report, main

WRONG_SHOWN_MAX = 20


class CrashRun:
    """A loop of kills over one data directory. `seed` chooses every operation and every moment to kill; how threads
    interleave is the machine's affair."""

    def __init__(self, server: Server, seed: str, *, processes: int = 2, threads: int = 4, keys: int = 24) -> None:
        self.server = server
        self.seed = seed
        self.rng = random.Random(seed)
        self.bucket = "crash"
        self.kills = 0
        self.early_kills = 0
        self.counts: Counter = Counter()
        self.recovery_seconds: list[float] = []
        self.races: dict[str, list[Attempt]] = {}
        self.settled_races: dict[str, tuple[int, str] | None] = {}
        context = multiprocessing.get_context("spawn")
        self.workers = []
        for index in range(processes):
            here, there = context.Pipe()
            arguments = (there, index, threads, keys, server.port, self.bucket, seed)
            process = context.Process(target=main, args=arguments, daemon=True)
            process.start()
            self.workers.append((here, process))

    def close(self) -> None:
        for pipe, process in self.workers:
            try:
                pipe.send(("quit",))
            except OSError:
                pass
            process.join(5)
            if process.is_alive():
                process.kill()

    # --- rounds ----------------------------------------------------------------------------------------------

    def run(self, kills: int, progress=print) -> None:
        """`kills` rounds, then a stop in good order and a last look at everything. Raises AssertionError."""
        self.server.start()
        client = RawClient("127.0.0.1", self.server.port)
        reply = client.request("PUT", self.bucket)
        assert reply.status == 200, f"create bucket: {reply.status} {reply.body!r}"
        client.close()
        while self.kills < kills:
            self.load_and_kill()
            self.restart()
            self.verify(everything=self.kills % 10 == 0)
            if self.kills % 10 == 0:
                progress(f"crash: {self.kills}/{kills} kills, {self.summary()}")
        self.load(seconds=0.5)
        code = self.server.stop()
        assert code == 0, f"SIGTERM under no load ended with {code}\n{self.server.log_tail()}"
        self.restart()
        self.verify(everything=True)
        progress(f"crash: done after {self.kills} kills, {self.summary()}")

    def load_and_kill(self) -> None:
        shared = [f"race/{self.kills:04d}/{i}" for i in range(6)]
        self.order("run", shared)
        time.sleep(self.rng.choice([0.02, 0.1, 0.3, 0.6, 1.2, 2.0]) * self.rng.uniform(0.5, 1.0))
        assert self.server.running(), f"the server ended by itself under load\n{self.server.log_tail()}"
        self.server.kill()
        self.kills += 1
        self.take(self.order("join"))

    def load(self, seconds: float) -> None:
        self.order("run", [f"race/last/{i}" for i in range(6)])
        time.sleep(seconds)
        self.order("stop")
        self.take(self.order("join"))

    def restart(self) -> None:
        """Starts the server; now and then kills it in the midst of recovery first."""
        while self.rng.random() < 0.2:
            self.server.spawn()
            time.sleep(self.rng.uniform(0.005, 0.4))
            assert self.server.running(), f"ended by itself while starting\n{self.server.log_tail()}"
            self.server.kill()
            self.early_kills += 1
        begun = time.monotonic()
        self.server.start()
        self.recovery_seconds.append(time.monotonic() - begun)

    def verify(self, everything: bool) -> None:
        reports = self.order("verify", everything)
        wrong = [line for report in reports for line in report.wrong]
        for report in reports:
            self.counts.update({f"verified {name}": n for name, n in report.counts.items() if name in ("get", "listed")})
        wrong += self.verify_shared(everything)
        self.fail_if(wrong)

    # --- keys that everybody writes ------------------------------------------------------------------------------

    def take(self, reports: list[Report]) -> None:
        wrong = []
        for report in reports:
            self.counts.update(report.counts)
            wrong += report.wrong
            for attempt in report.attempts:
                if attempt.acknowledged is not False:
                    self.races.setdefault(attempt.key, []).append(attempt)
        self.fail_if(wrong)

    def verify_shared(self, everything: bool) -> list[str]:
        wrong = []
        client = RawClient("127.0.0.1", self.server.port)
        for key, attempts in self.races.items():
            reply = client.get(self.bucket, key)
            acknowledged = [a for a in attempts if a.acknowledged]
            if reply.status not in (200, 404):
                wrong.append(f"get {key}: {reply.status} {reply.body[:200]!r}")
            elif key == "counter":
                wrong += self.judge_counter(reply, attempts)
            elif len(acknowledged) > 1:
                wrong.append(f"{key}: {len(acknowledged)} writers with If-None-Match: * were told that they won")
            elif acknowledged and (reply.status != 200 or reply.body != acknowledged[0].content.data()):
                wrong.append(f"{key}: acknowledged {acknowledged[0].content}, found {describe(reply.body)}")
            elif reply.status == 200 and not any(reply.body == a.content.data() for a in attempts):
                wrong.append(f"{key}: found what nobody wrote: {describe(reply.body)}")
            if key != "counter":
                self.settled_races[key] = (len(reply.body), reply.etag) if reply.status == 200 else None
        counter = self.races.get("counter", [])
        self.races = {"counter": counter} if counter else {}
        if everything:
            listed = client.list_all(self.bucket, prefix="race/")
            expected = {key: state for key, state in self.settled_races.items() if state is not None}
            for key in listed.keys() ^ expected.keys():
                wrong.append(f"{key}: {'listed, not expected' if key in listed else 'lost from the listing'}")
            for key in listed.keys() & expected.keys():
                if (listed[key][1], listed[key][0]) != expected[key]:
                    wrong.append(f"{key}: listed as {listed[key]}, was {expected[key]}")
        client.close()
        return wrong

    def judge_counter(self, reply, attempts: list[Attempt]) -> list[str]:
        """Compare-and-swap: no value is acknowledged twice, and what is there is the last one or a later attempt."""
        wrong = []
        values = Counter(a.value for a in attempts if a.acknowledged)
        for value, times in values.items():
            if times > 1:
                wrong.append(f"counter: {times} writers were told that they raised it to {value}")
        last = max(values, default=0)
        found = int(reply.headers.get("x-amz-meta-value", "0")) if reply.status == 200 else 0
        if found < last:
            wrong.append(f"counter: {found}, though {last} was acknowledged")
        if found and not any(a.value == found and a.content.data() == reply.body for a in attempts):
            wrong.append(f"counter: {found} holds what nobody wrote: {describe(reply.body)}")
        # From here on, only what is there matters.
        attempts[:] = [a for a in attempts if a.value == found and a.content.data() == reply.body]
        for attempt in attempts:
            attempt.acknowledged = True
        return wrong

    # --- the rest --------------------------------------------------------------------------------------------------

    def order(self, *words) -> list:
        """Says it to all workers, then collects all answers."""
        for pipe, _ in self.workers:
            pipe.send(words)
        answers = []
        for pipe, process in self.workers:
            if not pipe.poll(600):
                raise AssertionError(f"a worker did not answer {words[0]!r} in 600 s: a request hangs")
            answers.append(pipe.recv())
        return answers

    def fail_if(self, wrong: list[str]) -> None:
        if wrong:
            shown = "\n".join(f"  - {line}" for line in wrong[:WRONG_SHOWN_MAX])
            raise AssertionError(
                f"{len(wrong)} wrong after {self.kills} kills (seed {self.seed!r}):\n{shown}\n{self.server.log_tail()}"
            )

    def summary(self) -> str:
        writes = sum(self.counts[n] for n in ("put", "put if", "copy", "complete", "delete", "delete many", "race won", "counted"))
        slowest = max(self.recovery_seconds, default=0.0)
        return (
            f"{writes} writes acknowledged ({self.counts['bytes'] / 1e6:.0f} MB), {self.counts['unknown']} cut off, "
            f"{self.counts['verified get']} reads and {self.counts['verified listed']} listed entries checked after "
            f"restarts, {self.early_kills} kills during recovery, slowest start {slowest:.2f} s"
        )
