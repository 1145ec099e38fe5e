"""The container image: built from the binary under test, started, used, restarted (tests/docker/run.sh)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.server import find_binary


def test_image_builds_starts_serves_and_keeps_its_data():
    script = Path(__file__).with_name("run.sh")
    environment = os.environ | {"GRANARY_BIN": str(find_binary()), "GRANARY_PYTHON": sys.executable}
    done = subprocess.run([str(script)], env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip().splitlines()[-1].removeprefix("SKIP: "))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS" in done.stdout
