"""docker/compose.dev.yml, brought up as README says: healthy, served with the AWS CLI, its data kept over `down`, the seccomp profile in force.

With Docker's Compose plugin or the older docker-compose; skipped, saying so, where there is neither, or no engine answers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from tests.harness import client_env
from tests.harness.server import find_binary, free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 180
KEYS = ("COMPOSETESTROOT00001", "compose/tests/only+secret0123456789abcdef")


def run(command: list[str], *, check: bool = True, seconds: float = 300, **more) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, **more)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def compose_line() -> list[str]:
    if not shutil.which("docker"):
        pytest.skip("docker is not installed")
    try:
        engine = run(["docker", "info"], check=False, seconds=30)
    except subprocess.TimeoutExpired:
        pytest.skip("no Docker engine answers (docker info)")
    if engine.returncode:
        pytest.skip("no Docker engine answers (docker info)")
    if run(["docker", "compose", "version"], check=False).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("neither `docker compose` nor docker-compose is installed (Debian: apt-get install docker-compose)")


class Project:
    """One `up` of the file under a name of its own, from the folder that README names."""

    def __init__(self, line: list[str]) -> None:
        self.name = f"granarytest{uuid.uuid4().hex[:10]}"
        self.line = [*line, "-p", self.name, "-f", "compose.dev.yml"]
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.env = os.environ | {
            "GRANARY_IMAGE": f"granary:{self.name}", "GRANARY_PORT": str(self.port),
            "GRANARY_ROOT_ACCESS_KEY": KEYS[0], "GRANARY_ROOT_SECRET_KEY": KEYS[1],
        }  # fmt: skip

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run([*self.line, *arguments], env=self.env, cwd=ROOT / "docker", check=check)

    def inspect(self) -> dict:
        container = self("ps", "-q", "granary").stdout.strip()
        return json.loads(run(["docker", "inspect", container]).stdout)[0]

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (state := self.inspect()["State"])["Health"]["Status"] != "healthy":
            assert state["Running"] and time.monotonic() < deadline, f"{state}\n{self('logs', 'granary').stdout[-3000:]}"
            time.sleep(0.5)

    def aws(self, *arguments: str) -> str:
        env = client_env(self.endpoint, AWS_ACCESS_KEY_ID=KEYS[0], AWS_SECRET_ACCESS_KEY=KEYS[1])
        return run(["aws", "s3", *arguments], env=env).stdout


@pytest.fixture
def project(compose_line):
    made = Project(compose_line)
    run([str(ROOT / "scripts" / "docker-build.sh"), f"granary:{made.name}"], env=os.environ | {"GRANARY_BIN": str(find_binary())})
    try:
        yield made
    finally:
        made("down", "--volumes", "--timeout", "45", check=False)
        with contextlib.suppress(AssertionError):
            run(["docker", "image", "rm", "-f", f"granary:{made.name}"])


def test_the_developers_service(project, tmp_path):
    project("up", "-d")
    assert len(project("ps", "-q").stdout.split()) == 1, "the node alone: dashboards are asked for by their profile"
    project.wait_until_healthy()
    host = project.inspect()["HostConfig"]
    assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"]
    assert any(option.startswith("seccomp") and "io_uring_setup" in option for option in host["SecurityOpt"]), host["SecurityOpt"]
    assert "io_uring is refused" not in project("logs", "granary").stdout
    source = tmp_path / "from"
    source.write_bytes(os.urandom(20_000_000))
    project.aws("cp", str(source), "s3://raw/a/large")
    assert "20000000 large" in project.aws("ls", "s3://raw/a/")

    # Removed and made anew: the volume has the data, and the root key it is sealed with.
    project("down", "--timeout", "45")
    project("up", "-d")
    project.wait_until_healthy()
    project.aws("cp", "s3://raw/a/large", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    # Stopped, it drains and ends by itself.
    project("stop", "--timeout", "45")
    container = run(["docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={project.name}"]).stdout.split()
    assert [json.loads(run(["docker", "inspect", one]).stdout)[0]["State"]["ExitCode"] for one in container] == [0]


def test_dashboards_are_asked_for_by_their_profile(compose_line):
    """Their images come from a registry, which tests do without: what `--profile metrics` would start is read, not started."""
    services = Project(compose_line)("--profile", "metrics", "config", "--services").stdout.split()
    assert set(services) == {"granary", "prometheus", "grafana"}
