"""Runs every test there is and says what was skipped and why.

Stages: Rust tests (cargo-nextest where it is installed, `cargo test` otherwise), doctests, the binary the
Python tests run against, and pytest over tests/. All stages run even when one fails. The last line sums the
runners' own summaries, for a CI to read; the exit status is 1 if anything failed, including a runner that
died before it could count.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
# Seconds for each fuzz target: a minute each in `make test`, half an hour each in `make soak`. $FUZZ_SECONDS overrides.
FUZZ_SECONDS, FUZZ_SECONDS_SOAK = "60", "1800"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Tally:
    """What the runners said, summed."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)


def run(what: str, command: list[str], **env: str) -> tuple[int, list[str]]:
    """Runs a command, showing its output as it comes; returns its status and lines."""
    print(f"\n── {what}: {' '.join(command)}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        lines.append(ANSI.sub("", line.rstrip("\n")))
    status = process.wait()
    print(f"── {what}: {'ok' if status == 0 else f'exit status {status}'} in {time.monotonic() - started:.0f} s", flush=True)
    return status, lines


def count(lines: list[str], tally: Tally) -> int:
    """Adds up the summary lines of nextest, cargo test and pytest; returns how many tests failed."""
    failed = 0
    for line in lines:
        if line.lstrip().startswith("Summary ["):  # nextest
            found = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|timed out|skipped|exec failed)", line)}
            failed += found.get("failed", 0) + found.get("timed out", 0) + found.get("exec failed", 0)
        elif line.startswith("test result:"):  # cargo test
            found = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|ignored)", line)}
            found["skipped"] = found.pop("ignored", 0)
            failed += found.get("failed", 0)
        elif re.match(r"=* ?\d+ (passed|failed|skipped|error|xfailed|deselected).* in [\d.]+s", line):  # pytest
            found = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error|xfailed|xpassed)", line)}
            failed += found.get("failed", 0) + found.get("error", 0) + found.get("xpassed", 0)
            found["skipped"] = found.get("skipped", 0) + found.get("xfailed", 0)
        else:
            continue
        tally.passed += found.get("passed", 0)
        tally.skipped += found.get("skipped", 0)
    tally.failed += failed
    return failed


def stage(tally: Tally, what: str, command: list[str], **env: str) -> bool:
    """One runner. A runner that fails without naming a failed test counts as one failure."""
    status, lines = run(what, command, **env)
    named = count(lines, tally)
    if status != 0 and named == 0:
        tally.failed += 1
        tally.notes.append(f"{what} ended with status {status} and named no failed test")
    return status == 0


def ignored_rust_tests() -> list[str]:
    """Where `#[ignore]` stands, for the closing note."""
    found = []
    for path in sorted((ROOT / "crates").rglob("*.rs")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.lstrip().startswith("#[ignore"):
                reason = re.search(r'"(.+)"', line)
                found.append(f"{path.relative_to(ROOT)}:{number}: {reason.group(1) if reason else 'no reason given'}")
    return found


def main() -> int:
    """Runs the stages; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soak", action="store_true", help="the long tests only: ignored Rust tests, pytest -m slow")
    soak = parser.parse_args().soak
    tally = Tally()
    nextest = shutil.which("cargo-nextest") is not None
    os.environ.setdefault("FUZZ_SECONDS", FUZZ_SECONDS_SOAK if soak else FUZZ_SECONDS)
    # Debug assertions stay on in both: soak finds more with them, and the dependencies are compiled once.
    if nextest:
        rust = ["cargo", "nextest", "run", "--locked", "--workspace", "--no-fail-fast"]
        stage(tally, "Rust tests", [*rust, *(["--run-ignored", "only", "--no-tests", "pass"] if soak else [])])
    else:
        rust = ["cargo", "test", "--locked", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"]
        stage(tally, "Rust tests", [*rust, *(["--", "--ignored"] if soak else [])])
    if soak:
        stage(tally, "Fuzz targets", ["cargo", "test", "--locked", "--workspace", "--test", "fuzz", "--", "--nocapture"])
    else:
        stage(tally, "Rust doctests", ["cargo", "test", "--locked", "--workspace", "--doc"])

    binary = Path(os.environ["GRANARY_BIN"]) if "GRANARY_BIN" in os.environ else TARGET / "debug" / "granary"
    built = True
    if "GRANARY_BIN" not in os.environ:
        built = stage(tally, "binary for the Python tests", ["cargo", "build", "--locked", "--workspace", "--bins"])
    if not any((ROOT / "tests").rglob("test_*.py")):
        tally.notes.append("no Python tests found under tests/")
    elif built:
        pytest = [sys.executable, "-m", "pytest", "tests", "-ra", "-q", "-p", "no:cacheprovider"]
        # Workers each have a server of their own; a file's tests stay on one worker.
        pytest += ["-n", "2", "--dist", "loadfile"] if not soak else []
        stage(
            tally,
            "Python tests",
            [*pytest, "-m", "slow" if soak else "not slow"],
            GRANARY_BIN=str(binary),
            GRANARY_PYTHON=sys.executable,
            PYTHONDONTWRITEBYTECODE="1",
        )
    else:
        tally.notes.append("Python tests were not run: the binary did not build")

    print("\n── Summary")
    if not soak and (ignored := ignored_rust_tests()):
        print("Ignored Rust tests (run by `make soak`):", *ignored, sep="\n  ")
    if not nextest:
        print("cargo-nextest is not installed: `cargo test` ran instead, the same tests with less isolation.")
    for note in tally.notes:
        print(f"NOTE: {note}")
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped", flush=True)
    return 1 if tally.failed or tally.passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
