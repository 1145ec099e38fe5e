"""The demo itself: raw data in, shards, training, kills, final model out, and the table of what it came to."""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy
import pyarrow

from tests.harness import Server, scratch_dir

from . import data, shards, train
from .ledger import Ledger, verify
from .network import Network
from .store import ARTEFACTS, BUCKETS, CACHE, PROCESSED, RAW, Store

ACCURACY_MIN = 0.90
UPLOADERS = 8
TRAINER_STARTS_MAX = 20


class Wrong(Exception):
    """The demo's promise is broken: what, exactly."""


def bar(what: str, done: int, total: int, note: str = "") -> None:
    """A progress bar on a terminal; a line now and then elsewhere."""
    if sys.stderr.isatty():
        filled = 30 * done // max(total, 1)
        sys.stderr.write(f"\r{what:<12} [{'█' * filled}{'·' * (30 - filled)}] {done}/{total} {note}\x1b[K")
        sys.stderr.write("\n" if done >= total else "")
    elif done >= total or done % max(total // 5, 1) == 0:
        sys.stderr.write(f"{what:<12} {done}/{total} {note}\n")
    sys.stderr.flush()


def say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    print(text, flush=True)


@dataclass
class Tally:
    """What the table is made of."""

    rows: list[tuple[str, int, int, float]] = field(default_factory=list)  # stage, bytes in, bytes out, seconds
    kills: int = 0
    verified_objects: int = 0
    verified_bytes: int = 0
    verifications: int = 0
    resumed: list[tuple[int, int]] = field(default_factory=list)  # step seen before the kill, step resumed from
    seconds: float = 0.0
    waited: float = 0.0
    replayed: int = 0


class Demo:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rng = random.Random(options.seed)
        self.home = scratch_dir("granary-demo-")
        self.server = Server(defaults=True)
        self.ledger = Ledger(self.home / "ledger.jsonl")
        self.tally = Tally()
        self.losses: dict[int, float] = {}

    # --- stages ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        begun = time.monotonic()
        say(f"demo: seed {self.options.seed}; {self.server.binary}")
        self.server.start()
        ready = next((line for line in self.server.log().splitlines() if line.startswith("READY ")), "")
        say(f"demo: {ready}")
        self.store = Store(self.server.endpoint, self.ledger)
        self.stage("raw", self.ingest)
        self.stage("shards", lambda: shards.build(self.store, lambda n, of: bar("shards", n, of)))
        self.index = json.loads(self.store.get(PROCESSED, "index.json"))
        self.training()
        accuracy = self.stage("results", self.results)
        code = self.server.stop()
        if code != 0:
            raise Wrong(f"SIGTERM ended the server with {code}\n{self.server.log_tail()}")
        self.server.start()
        self.check("after a stop in good order")
        self.table(accuracy, time.monotonic() - begun)
        if accuracy < ACCURACY_MIN:
            raise Wrong(f"accuracy {accuracy:.3f} is below {ACCURACY_MIN}: the model did not learn from what it was served")

    def stage(self, name: str, work):
        sent, received, begun = self.store.bytes_in, self.store.bytes_out, time.monotonic()
        result = work()
        self.tally.rows.append(
            (name, self.store.bytes_in - sent, self.store.bytes_out - received, time.monotonic() - begun)
        )
        return result

    def ingest(self) -> None:
        """Single images with their labels, by boto3, several at a time; the server is killed in the midst of it, and
        boto3's own retries carry the upload over."""
        have = {bucket["Name"] for bucket in self.store.s3.list_buckets()["Buckets"]}
        for bucket in BUCKETS:
            if bucket not in have:  # the preset makes them
                self.store.s3.create_bucket(Bucket=bucket)
        files = list(data.raw_files().items())
        kill_at = self.rng.randrange(len(files) // 4, len(files) * 3 // 4)
        done = 0
        lock = threading.Lock()

        def put(entry) -> None:
            nonlocal done
            key, (body, metadata) = entry
            self.store.put(RAW, key, body, Metadata=metadata)
            with lock:
                done += 1
                bar("raw", done, len(files))

        killer = threading.Thread(target=self.kill_when, args=(lambda: done >= kill_at, "during the upload"), daemon=True)
        killer.start()
        with ThreadPoolExecutor(UPLOADERS) as pool:
            list(pool.map(put, files))
        killer.join()
        if not self.server.running():
            raise Wrong("the server did not come back during the upload")
        self.check("after the upload")

    def kill_when(self, due, what: str) -> None:
        while not due():
            time.sleep(0.005)
        self.server.kill()
        self.tally.kills += 1
        self.server.start()
        say(f"demo: server killed {what} and started again; clients retried")

    def training(self) -> None:
        """Starts the trainer as often as it takes; kills it and the server at moments of the seed's choosing."""
        from .loader import steps_of

        steps = self.options.epochs * sum(steps_of(shard) for shard in self.index["shards"])
        # Some kills at a step, some in the middle of writing a checkpoint, one of the server alone.
        marks = sorted(self.rng.sample(range(steps // 10, steps * 9 // 10), self.options.kills))
        plan = [(mark, ("both", "saving", "server")[i % 3]) for i, mark in enumerate(marks)]
        begun = time.monotonic()
        received = sent = 0
        for _ in range(TRAINER_STARTS_MAX):
            trainer = Trainer(self, plan, steps)
            finished = trainer.run()
            self.tally.seconds += trainer.seconds
            self.tally.waited += trainer.waited
            received += trainer.received
            sent += trainer.sent
            if finished:
                break
        else:
            raise Wrong(f"the trainer did not finish in {TRAINER_STARTS_MAX} starts")
        stored = [e for e in self.checkpoints_sent()]
        self.tally.rows.append(("training", sum(stored), received, time.monotonic() - begun))
        self.check("after training")

    def checkpoints_sent(self) -> list[int]:
        events = map(json.loads, self.ledger.path.read_text().splitlines())
        return [e["size"] for e in events if e["event"] == "done" and e["bucket"] == ARTEFACTS and e["sha256"]]

    def results(self) -> float:
        """The final model, its evaluation on held-out digits, and the features of every one of those, written back."""
        last = train.complete_steps(self.store)[-1]
        network = Network.load(self.store.get(ARTEFACTS, f"{train.folder(last)}/state.npz"))
        table = shards.read_parquet(self.store, PROCESSED, self.index["test"], ["label", "image", "source"])
        images = numpy.stack([numpy.frombuffer(image, numpy.uint8) for image in table["image"].to_pylist()])
        labels = table["label"].to_numpy()
        accuracy = float((network.predict(images) == labels).mean())
        self.store.put(ARTEFACTS, "final/model.npz", network.dump(optimizer=False))
        report = {"accuracy": accuracy, "step": last, "samples": len(labels)}
        self.store.put(ARTEFACTS, "final/evaluation.json", json.dumps(report).encode())
        features = network.features(images)
        made = pyarrow.table({
            "source": table["source"],
            "features": pyarrow.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1]),
        })  # fmt: skip
        shards.write_parquet(self.store, CACHE, "features/test.parquet", made)
        back = shards.read_parquet(self.store, CACHE, "features/test.parquet", ["features"])
        again = back["features"].combine_chunks().flatten().to_numpy().reshape(features.shape)
        if not numpy.array_equal(again, features):
            raise Wrong("the cached features read back differ from those written")
        again = Network.load(self.store.get(ARTEFACTS, "final/model.npz"))
        if not numpy.array_equal(again.predict(images), network.predict(images)):
            raise Wrong("the final model read back predicts otherwise than the one written")
        return accuracy

    # --- looking -----------------------------------------------------------------------------------------------

    def check(self, when: str) -> None:
        """Reads back everything that was ever acknowledged."""
        result = verify(self.ledger, self.server.port)
        if result.wrong:
            shown = "\n".join(f"  - {line}" for line in result.wrong[:20])
            raise Wrong(f"{len(result.wrong)} wrong {when}:\n{shown}\n{self.server.log_tail()}")
        self.tally.verified_objects += result.objects
        self.tally.verified_bytes += result.bytes
        self.tally.verifications += 1
        self.objects = result.objects
        say(f"demo: {when}: {result.objects} objects ({result.bytes / 1e6:.1f} MB) read back, all as acknowledged")

    def table(self, accuracy: float, seconds: float) -> None:
        tally = self.tally
        print(f"\n{'stage':<10} {'MB in':>8} {'MB out':>8} {'seconds':>8} {'MB/s':>7}")
        for name, sent, received, took in tally.rows:
            rate = (sent + received) / 1e6 / max(took, 1e-9)
            print(f"{name:<10} {sent / 1e6:>8.1f} {received / 1e6:>8.1f} {took:>8.1f} {rate:>7.1f}")
        resumed = ", ".join(f"{seen}→{went}" for seen, went in tally.resumed)
        share = 100 * tally.waited / max(tally.seconds, 1e-9)
        print(f"""
accuracy on held-out digits     {accuracy:.4f}
kill -9 of the server           {tally.kills} (trainer resumed {len(tally.resumed)} times: step {resumed})
steps trained twice, same loss  {tally.replayed}
waiting for data                {share:.1f} % of step time
verified byte for byte          {self.objects} objects, re-read {tally.verifications} times \
({tally.verified_objects} reads, {tally.verified_bytes / 1e6:.0f} MB), 0 wrong
whole demo                      {seconds:.0f} s""")


class Trainer:
    """One life of the trainer process, up to its end or the next kill of the plan."""

    def __init__(self, demo: Demo, plan: list[tuple[int, str]], steps: int) -> None:
        self.demo, self.plan, self.steps = demo, plan, steps
        self.seconds = self.waited = 0.0
        self.received = self.sent = 0
        self.step = 0
        options = demo.options
        self.log = open(demo.home / "trainer.log", "ab")
        environment = os.environ | {
            "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
            "AWS_ACCESS_KEY_ID": train_keys()[0], "AWS_SECRET_ACCESS_KEY": train_keys()[1], "AWS_REGION": "us-east-1",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.demo.train", demo.server.endpoint, str(demo.ledger.path),
             str(options.epochs), str(options.workers), str(options.every)],
            stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment, start_new_session=True,
        )  # fmt: skip

    def run(self) -> bool:
        """True if training came to its end."""
        try:
            for line in self.process.stdout:
                event = json.loads(line)
                if event["event"] == "finished":
                    self.received, self.sent = event["received"], event["sent"]
                    self.process.wait(60)
                    return True
                if self.on(event):
                    return False
            code = self.process.wait(60)
            tail = (self.demo.home / "trainer.log").read_text(errors="replace")[-2000:]
            if not self.demo.server.running():
                raise Wrong(f"the server ended by itself\n{self.demo.server.log_tail()}")
            raise Wrong(f"the trainer ended by itself with {code} at step {self.step}:\n{tail}")
        finally:
            self.end()

    def on(self, event: dict) -> bool:
        """Takes in an event; True if it led to the trainer's death."""
        kind = event["event"]
        if kind == "started":
            self.resumed_at(event["step"])
        elif kind == "step":
            self.step = event["step"]
            self.seconds, self.waited = event["seconds"], event["waited"]
            self.same_loss(event["step"], event["loss"])
            bar("training", self.step, self.steps, f"loss {event['loss']:.3f}")
        due = self.plan and event.get("step", 0) >= self.plan[0][0]
        if not due:
            return False
        what = self.plan[0][1]
        if what == "saving" and kind != "saving":
            return False
        if what != "saving" and kind != "step":
            return False
        self.plan.pop(0)
        return self.strike(what)

    def strike(self, what: str) -> bool:
        demo = self.demo
        if what == "saving":  # somewhere in the multipart upload
            time.sleep(demo.rng.uniform(0.0, 0.25))
        demo.server.kill()
        demo.tally.kills += 1
        if what == "server":
            demo.server.start()
            say(f"demo: server killed at step {self.step}; the trainer goes on")
            return False
        self.end()
        demo.server.start()
        say(f"demo: server and trainer killed at step {self.step}" + (", while a checkpoint was written" if what == "saving" else ""))
        demo.before_kill = self.step
        demo.check("after the restart")
        return True

    def resumed_at(self, step: int) -> None:
        """It must go on from the highest step whose checkpoint was acknowledged, or a later whole one."""
        demo = self.demo
        acknowledged = [
            int(key.split("/")[1].split("-")[1])
            for (bucket, key), e in demo.ledger.expectations().items()
            if bucket == ARTEFACTS and key.endswith("/COMPLETE") and None not in e.admissible
        ]
        if step < max(acknowledged, default=0):
            raise Wrong(f"resumed from step {step}, though the checkpoint of step {max(acknowledged)} was acknowledged")
        seen = getattr(demo, "before_kill", None)
        if seen is not None:
            demo.tally.resumed.append((seen, step))

    def same_loss(self, step: int, loss: float) -> None:
        """Steps between the checkpoint and the kill are trained again: on the same data from the same state they
        have the same loss."""
        before = self.demo.losses.setdefault(step, loss)
        if before is not loss:
            self.demo.tally.replayed += 1
            if abs(before - loss) > 1e-4 * max(1.0, abs(before)):
                raise Wrong(f"step {step} had loss {before} before the kill and {loss} after: not the same state or data")

    def end(self) -> None:
        """SIGKILL for the trainer's whole session: its loader workers and their s5cmd go with it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


def train_keys() -> tuple[str, str]:
    from tests.harness import ACCESS_KEY, SECRET_KEY

    return ACCESS_KEY, SECRET_KEY


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="loader processes")
    parser.add_argument("--every", type=int, default=40, help="steps between checkpoints")
    parser.add_argument("--kills", type=int, default=4, help="kills during training")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    demo = Demo(parser.parse_args())
    try:
        demo.run()
    except Wrong as wrong:
        say(f"\ndemo: WRONG: {wrong}")
        return 1
    except Exception:  # noqa: BLE001 - a client's error: shown whole, with what the server said
        traceback.print_exc()
        say(f"\ndemo: FAILED\n{demo.server.log_tail()}")
        return 1
    finally:
        demo.server.close()
        import shutil

        shutil.rmtree(demo.home, ignore_errors=True)
    say("demo: done, nothing lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
