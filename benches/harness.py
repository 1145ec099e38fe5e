"""What benches/run and benches/peers share: scale, servers, fio, the load generator, tables and the report page.

Guarantees: every process started here is stopped here, and every scratch file removed; bars are information and never
change the exit status, failed operations do. Leaves to others: which figures are taken.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
from tests.harness import server as granary_server  # noqa: E402

GB = 1e9
MIB = 1 << 20
DOCS = REPOSITORY / "docs" / "benchmarks.md"


def scale() -> float:
    """$BENCH_SCALE: 1 is the full run (below 20 minutes), 0.1 a quick pass (below 3). `quick` and `full` are words for them."""
    text = os.environ.get("BENCH_SCALE", "1")
    return {"quick": 0.1, "full": 1.0}.get(text) or max(0.01, min(10.0, float(text)))


def scaled(full: float, least: float) -> float:
    return max(least, full * scale())


def cache() -> Path:
    path = Path(os.environ.get("GRANARY_CACHE", Path.home() / ".cache" / "granary")) / "bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def generator() -> Path:
    """The load generator: $GRANARY_BENCH_BIN, else built now."""
    named = os.environ.get("GRANARY_BENCH_BIN")
    if named:
        return Path(named)
    # All of the workspace: what is built alone has other features, and RocksDB would be built again.
    subprocess.run(["cargo", "build", "--release", "--locked", "-q", "--workspace", "--bins"], cwd=REPOSITORY, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return target / "release" / "granary-bench"


class Side:
    """One endpoint with its key pair, for the load generator."""

    def __init__(self, url: str, pid: int | None, access: str, secret: str, region: str = "us-east-1", ca: str | None = None) -> None:
        self.url, self.pid, self.access, self.secret, self.region, self.ca = url, pid, access, secret, region, ca


class Bench:
    """Runs the load generator and keeps what it said."""

    def __init__(self, name: str) -> None:
        self.binary = generator()
        self.started = datetime.datetime.now(datetime.timezone.utc)
        self.folder = cache() / f"{name}-{self.started:%Y%m%dT%H%M%SZ}"
        self.folder.mkdir(parents=True)
        self.runs: dict[str, dict] = {}
        self.errors = 0

    def load(self, label: str, side: Side, *arguments: str, against: Side | None = None) -> dict:
        """One run; the answer is its JSON. Failed operations are remembered."""
        path = self.folder / (re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-").lower() + ".json")
        command = [str(self.binary), *arguments, "--endpoint", side.url, "--region", side.region]
        command += ["--label", label, "--json", str(path), "--seed", "1"]
        if ca := side.ca or (against and against.ca):
            command += ["--ca-file", ca]
        if side.pid:
            command += ["--server-pid", str(side.pid)]
        env = os.environ | {"AWS_ACCESS_KEY_ID": side.access, "AWS_SECRET_ACCESS_KEY": side.secret}
        if against:
            command += ["--against", against.url, "--against-region", against.region]
            if against.pid:
                command += ["--against-pid", str(against.pid)]
            env |= {"AGAINST_ACCESS_KEY_ID": against.access, "AGAINST_SECRET_ACCESS_KEY": against.secret}
        with open(self.folder / "commands.txt", "a") as log:
            log.write(shlex.join(command) + "\n")
        code = subprocess.run(command, env=env).returncode
        if code not in (0, 2) or not path.exists():
            raise SystemExit(f"bench: '{label}' gave no figures (exit {code})")
        report = json.loads(path.read_text())
        for one in report["sides"]:
            if one["total"]["ops"] == 0:
                raise SystemExit(f"bench: '{label}': no operation succeeded: {one['total']['errors']}")
        self.errors += sum(s["total"]["error_count"] for s in report["sides"])
        self.runs[label] = report
        return report

    def total(self, label: str, side: int = 0) -> dict:
        return self.runs[label]["sides"][side]["total"]


@contextlib.contextmanager
def granary(**settings):
    """A Granary on a scratch directory of the disk, as a `Server` with `.side`; removed afterwards."""
    with granary_server.Server(**settings) as server:
        server.start()
        yield server


def side_of(server) -> Side:
    return Side(server.endpoint, server.process.pid, granary_server.ACCESS_KEY, granary_server.SECRET_KEY)


@contextlib.contextmanager
def serving(plaintext: bool = False):
    """`granary serve` with the preset `ai`, over TLS by a certificate of its own, or in the clear; a `Side`."""
    home = scratch()
    drives = [home / f"d{n}" for n in range(6)]
    for drive in drives:
        drive.mkdir()
    config, admin = home / "granary.toml", granary_server.free_port()
    config.write_text(
        f"[node]\ndata_dir = '{home}/node'\n[drives]\npaths = {[str(d) for d in drives]}\nerasure = '4+2'\n"
        f"[s3]\nlisten = '127.0.0.1:0'\nplaintext = {str(plaintext).lower()}\n[admin]\nlisten = '127.0.0.1:{admin}'\n"
    )
    try:
        with granary_server.Server(config=config, preset=None) as server:
            server.admin_port = admin
            server.start()
            made = server.cli("preset", "apply", "ai", "--project", "tls")
            assert made.returncode == 0, made.stderr
            said = dict(re.findall(r"^export (\w+)=(\S+)$", server.log(), re.M))
            side = Side(said["AWS_ENDPOINT_URL"], server.process.pid, granary_server.ACCESS_KEY, granary_server.SECRET_KEY,
                        ca=said.get("AWS_CA_BUNDLE"))  # fmt: skip
            yield side
    finally:
        shutil.rmtree(home, ignore_errors=True)


def apply_preset(server, text: str, project: str) -> None:
    """Makes the buckets of a preset that is given as TOML, called PROJECT-NAME."""
    path = server.data.parent / "preset.toml"
    path.write_text(text)
    done = server.cli("preset", "apply", str(path), "--project", project)
    if done.returncode:
        raise SystemExit(f"bench: the preset was not applied: {done.stderr}")


def scratch() -> Path:
    return granary_server.scratch_dir("granary-bench-")


@contextlib.contextmanager
def fio_file(gb: float):
    """A file of `gb` GB, written out, for fio to read; removed afterwards."""
    folder = scratch()
    try:
        path = folder / "fio"
        fio_write(path, gb, keep=True)
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fio_read(path: Path, seconds: float) -> float:
    """MB/s of O_DIRECT reads, io_uring, 1 MiB, queue depth 32, through the whole file for `seconds`."""
    job = fio(["--rw=read", f"--filename={path}", "--time_based", f"--runtime={seconds:.0f}"])
    return job["read"]["bw_bytes"] / 1e6


def fio_write(path: Path, gb: float, keep: bool = False) -> float:
    """MB/s of O_DIRECT writes of `gb` GB, io_uring, 1 MiB, queue depth 32, with a final fsync, from start to end."""
    job = fio(["--rw=write", f"--filename={path}", f"--size={int(gb * GB) // MIB * MIB}", "--end_fsync=1"])
    if not keep:
        path.unlink()
    write = job["write"]
    return write["io_bytes"] / 1e6 / (job["job_runtime"] / 1e3)


def fio(arguments: list[str]) -> dict:
    command = ["fio", "--name=bench", "--ioengine=io_uring", "--direct=1", "--bs=1M", "--iodepth=32"]
    command += ["--output-format=json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    start = done.stdout.find("{")
    if done.returncode or start < 0:
        raise SystemExit(f"bench: fio failed: {done.stderr.strip() or done.stdout[:500]}")
    return json.loads(done.stdout[start:])["jobs"][0]


def ratio(pairs: list[tuple[float, float]]) -> float:
    """The median of the pairs' quotients."""
    return statistics.median(a / b for a, b in pairs)


# --- the report ------------------------------------------------------------------------------------------------


class Bars:
    """Figures with the value each is measured against."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str]] = []

    def at_most(self, what: str, value: float | None, bar: float, unit: str, digits: int = 2) -> None:
        self._add(what, value, f"≤ {bar:g} {unit}", value is not None and value <= bar, unit, digits)

    def at_least(self, what: str, value: float | None, bar: float, unit: str, digits: int = 2) -> None:
        self._add(what, value, f"≥ {bar:g} {unit}", value is not None and value >= bar, unit, digits)

    def _add(self, what: str, value: float | None, bar: str, good: bool, unit: str, digits: int) -> None:
        shown = "not measured" if value is None else f"{value:.{digits}f} {unit}"
        self.rows.append((what, shown.strip(), bar.strip(), "-" if value is None else "met" if good else "MISSED"))

    def markdown(self) -> str:
        return table(["figure", "measured", "bar", ""], self.rows)


def table(header: list[str], rows: list) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(" --- " for _ in header) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


FIGURES = ["load", "ops/s", "MB/s", "p50 ms", "p99 ms", "p99.9 ms", "server µs/op", "server CPU-s/GB",
           "server cores", "server RSS MB", "client µs/op", "errors"]  # fmt: skip


def figures(label: str, total: dict) -> list[str]:
    latency, server = total["latency_us"], total["server"]
    dash = "–"
    per_gb = f"{server['cpu_s_per_gb']:.3f}" if server and total["bytes"] else dash
    return [
        label, f"{total['ops_per_s']:,.0f}", f"{total['mb_per_s']:,.1f}" if total["bytes"] else dash,
        f"{latency['p50'] / 1e3:.2f}", f"{latency['p99'] / 1e3:.2f}", f"{latency['p999'] / 1e3:.2f}",
        f"{server['cpu_us_per_op']:,.1f}" if server else dash, per_gb,
        f"{server['cores']:.2f}" if server else dash,
        f"{total['server_rss_bytes'] / 1e6:,.0f}" if total["server_rss_bytes"] else dash,
        f"{total['client']['cpu_us_per_op']:,.1f}", str(total["error_count"]),
    ]  # fmt: skip


def machine() -> str:
    cpu = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())  # fmt: skip
    memory_kib = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1))
    return f"{os.cpu_count()} cores ({cpu}), {memory_kib / (1 << 20):.0f} GiB, Linux {platform.release()}"


def version(binary: str) -> str:
    done = subprocess.run([binary, "--version"], capture_output=True, text=True)
    return (done.stdout.strip() or done.stderr.strip()).splitlines()[0] if done.returncode == 0 else "version unknown"


def commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def load_average() -> str:
    return "{:.1f} to {:.1f}".format(*sorted(os.getloadavg()[:2]))


def finish(bench: Bench, section: str, title: str, command: str, body: str) -> int:
    """Prints the page, keeps it beside the JSON and, with BENCH_DOCS=1, in docs/benchmarks.md. Returns the exit status."""
    finish_page(section, title, command, body, bench.started, bench.folder)
    print(f"figures and commands: {bench.folder}")
    if bench.errors:
        print(f"bench: {bench.errors} operations failed", file=sys.stderr)
    return 1 if bench.errors else 0


def finish_page(section: str, title: str, command: str, body: str, started: datetime.datetime, folder: Path | None = None) -> int:
    """Prints the page, keeps it in the folder and, with BENCH_DOCS=1, in docs/benchmarks.md."""
    minutes = (datetime.datetime.now(datetime.timezone.utc) - started).total_seconds() / 60
    page = "\n".join([
        f"## {title}", "",
        f"{started:%Y-%m-%d %H:%M} UTC, commit {commit()}, {machine()}; `{command}` with BENCH_SCALE={scale():g}, "
        f"{minutes:.0f} min; load average at the end {load_average()}.",
        "", body, "",
    ])  # fmt: skip
    folder = folder or cache()
    (folder / f"report-{section}.md").write_text(page)
    print("\n" + page)
    if os.environ.get("BENCH_DOCS") == "1":
        put_section(DOCS, section, page)
        print(f"written to {DOCS.relative_to(REPOSITORY)}")
    return 0


def put_section(path: Path, section: str, page: str) -> None:
    """Replaces what stands between the section's markers; a page without them gets them at its end."""
    begin, end = f"<!-- {section}: begin, written by benches/ -->", f"<!-- {section}: end -->"
    text = path.read_text() if path.exists() else "# Benchmarks\n"
    block = f"{begin}\n{page.rstrip()}\n{end}"
    if begin in text and end in text:
        head, rest = text.split(begin, 1)
        text = head + block + rest.split(end, 1)[1]
    else:
        text = text.rstrip() + "\n\n" + block + "\n"
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as new:
        new.write(text)
    os.chmod(new.name, 0o644)
    os.replace(new.name, path)
