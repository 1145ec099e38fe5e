"""A Granary server as a child process: start, wait until it serves, kill -9, restart on the same data.

Guarantees: only processes started here are ever signalled (by their own pid), every server started is dead when
its object is closed, and its data lies on a real disk (O_DIRECT is refused by tmpfs).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ACCESS_KEY = "GRANARYTESTROOT00001"
SECRET_KEY = "tests/only+secret0123456789abcdefghijklmn"
REGION = "us-east-1"
READY_SECONDS_MAX = 120.0
# Small segments make starts quick and reclaim frequent; `make demo` runs on the defaults.
# No read cache: tests are about drives; tests/clients/test_read_cache.py is about the cache.
SMALL = {
    "GRANARY_DRIVES_SEGMENT_BYTES": str(64 << 20),
    "GRANARY_DRIVES_RESERVE_BYTES": str(64 << 20),
    "GRANARY_AI_CACHE_BYTES": "0",
}


class ServerFailed(Exception):
    """The server did not come up, or went away by itself; the message ends with the tail of its log."""


def find_binary() -> Path:
    """The binary under test: $GRANARY_BIN, else the newest build in the target directory."""
    named = os.environ.get("GRANARY_BIN")
    if named:
        path = Path(named)
        if not path.is_file():
            raise ServerFailed(f"GRANARY_BIN={named}: no such file")
        return path.resolve()
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    built = [p for p in (target / "release" / "granary", target / "debug" / "granary") if p.is_file()]
    if not built:
        raise ServerFailed(f"no granary binary under {target}: run `make build`, or set GRANARY_BIN")
    return max(built, key=lambda p: p.stat().st_mtime)


def scratch_dir(prefix: str = "granary-test-") -> Path:
    """A new directory on a disk that takes O_DIRECT: under $GRANARY_TEST_DIR, else /var/tmp, else the clone."""
    named = os.environ.get("GRANARY_TEST_DIR")
    candidates = [Path(named)] if named else [Path("/var/tmp"), REPOSITORY / "target" / "tests"]
    for base in candidates:
        try:
            base.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        except OSError:
            continue
        if _takes_o_direct(made):
            return made
        shutil.rmtree(made, ignore_errors=True)
    raise ServerFailed(f"none of {[str(c) for c in candidates]} takes O_DIRECT; set GRANARY_TEST_DIR to one that does")


def _takes_o_direct(directory: Path) -> bool:
    probe = directory / "o_direct"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o600))
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def free_port() -> int:
    """A port nobody listens on, below the range the kernel hands to outgoing connections, so that it stays ours
    while the server is down between a kill and a restart."""
    rng = random.SystemRandom()
    for _ in range(200):
        port = rng.randrange(12_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerFailed("no free port found in 200 tries")


class Server:
    """One server and its data directory.

    `command` is `dev` (the default) or, with `config`, `serve --config FILE`. `extra` is appended to the command
    line, `env` to the environment, which has small segments unless `defaults` is set. The directory is removed on close unless it was given or GRANARY_TEST_KEEP is set.
    """

    def __init__(
        self,
        data: Path | None = None,
        *,
        drives: int | None = 6,
        erasure: str = "4+2",
        preset: str | None = "ai",
        extra: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        config: Path | None = None,
        binary: Path | None = None,
        defaults: bool = False,
    ) -> None:
        self.binary = binary or find_binary()
        self._home = scratch_dir()
        self.data = data if data is not None else self._home / "data"
        self.log_path = self._home / "server.log"
        self.port = free_port()
        self.admin_port = free_port()
        self.drives = drives
        self.erasure = erasure
        self.preset = preset
        self.extra = extra
        self.config = config
        self.env = ({} if defaults else SMALL) | (env or {})
        self.starts = 0
        self.kills = 0
        self.process: subprocess.Popen[bytes] | None = None

    # --- addresses -------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    # --- life --------------------------------------------------------------------------------------------

    def command(self) -> list[str]:
        if self.config is not None:
            return [str(self.binary), "serve", "--config", str(self.config), *self.extra]
        line = [
            str(self.binary), "dev",
            "--data", str(self.data),
            "--listen", f"127.0.0.1:{self.port}",
            "--admin", f"127.0.0.1:{self.admin_port}",
            "--erasure", self.erasure,
        ]  # fmt: skip
        if self.drives is not None:
            line += ["--drives", str(self.drives)]
        if self.preset:
            line += ["--preset", self.preset]
        return line + list(self.extra)

    def spawn(self) -> None:
        """Starts the process and returns at once; see `wait_ready`."""
        assert not self.running(), "the server runs already"
        self.starts += 1
        self._ready = threading.Event()
        environment = os.environ | {
            "GRANARY_ROOT_ACCESS_KEY": ACCESS_KEY,
            "GRANARY_ROOT_SECRET_KEY": SECRET_KEY,
        } | self.env
        log = open(self.log_path, "ab", buffering=0)
        log.write(f"--- start {self.starts}: {' '.join(self.command())}\n".encode())
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment
        )
        self._reader = threading.Thread(
            target=_pump, args=(self.process.stdout, log, self._ready), name="server-log", daemon=True
        )
        self._reader.start()

    def wait_ready(self, seconds: float = READY_SECONDS_MAX) -> None:
        """Returns once the READY line was printed; raises `ServerFailed` if the process ends or time runs out."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while not self._ready.wait(0.01):
            code = self.process.poll()
            if code is not None:
                self._reader.join(1)
                if self._ready.is_set():
                    return
                raise ServerFailed(f"start {self.starts}: ended with {code} before READY\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"start {self.starts}: no READY line within {seconds:.0f} s\n{self.log_tail()}")

    def start(self) -> "Server":
        self.spawn()
        self.wait_ready()
        return self

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as a power cut for the process; returns when it is gone."""
        if self.running():
            self.process.kill()
            self.kills += 1
        self._reap()

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM: drains and ends. Returns the exit status."""
        assert self.process is not None
        if self.running():
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"SIGTERM did not end the server within {seconds:.0f} s\n{self.log_tail()}") from None
        self._reap()
        return code

    def restart(self) -> None:
        if self.running():
            self.stop()
        self.start()

    def start_with_its_own_list(self) -> None:
        """Starts without `--drives`: after drives were added or replaced, the data folder itself knows its drives."""
        kept, self.drives = self.drives, None
        try:
            self.start()
        finally:
            self.drives = kept

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        if os.environ.get("GRANARY_TEST_KEEP"):
            print(f"kept: {self._home}")
        else:
            shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reap(self) -> None:
        if self.process is not None:
            self.process.wait()
            self._reader.join(2)

    # --- what it says --------------------------------------------------------------------------------------

    def log(self) -> str:
        try:
            return self.log_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(["server log:", *self.log().splitlines()[-lines:]])

    def admin_get(self, path: str, seconds: float = 10.0) -> tuple[int, str]:
        """GET on the admin port: status and text."""
        try:
            with urllib.request.urlopen(self.admin + path, timeout=seconds) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def cli(self, *arguments: str, seconds: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Runs `granary ARGUMENTS --admin ADDR` and returns what it printed; the caller judges the status."""
        return subprocess.run(
            [str(self.binary), *arguments, "--admin", f"127.0.0.1:{self.admin_port}"],
            capture_output=True, text=True, timeout=seconds,
            env=os.environ | {"GRANARY_ROOT_ACCESS_KEY": ACCESS_KEY, "GRANARY_ROOT_SECRET_KEY": SECRET_KEY} | self.env,
        )  # fmt: skip

    def run(self, *arguments: str, seconds: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Runs `granary ARGUMENTS` in the server's environment, without an address; the caller judges the status."""
        return subprocess.run(
            [str(self.binary), *arguments], capture_output=True, text=True, timeout=seconds,
            env=os.environ | {"GRANARY_ROOT_ACCESS_KEY": ACCESS_KEY, "GRANARY_ROOT_SECRET_KEY": SECRET_KEY} | self.env,
        )  # fmt: skip

    def drive_dirs(self) -> list[Path]:
        """The drive folders, in order: those that hold a `drive.json`."""
        return sorted(p.parent for p in self.data.rglob("drive.json"))


def _pump(stream, log, ready: threading.Event) -> None:
    """Copies the server's output into the log and watches for the READY line."""
    for line in iter(stream.readline, b""):
        log.write(line)
        if line.startswith(b"READY "):
            ready.set()
    stream.close()
    log.close()
