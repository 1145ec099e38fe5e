"""Clients of training loops in an environment of their own (tests/requirements-loops.txt): heavy, so they run where that environment has been
made (`make test-clients` makes it) and skip, saying so, elsewhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("programs") / "loops.py"
NAMES = [
    "s3torchconnector_datasets", "s3torchconnector_checkpoints", "webdataset_loader", "mosaicml_streaming", "torchdata_nodes",
    "huggingface_datasets", "s3fs_files", "zarr_fsspec", "tensorflow_records", "dali_webdataset",
]  # fmt: skip


@pytest.fixture(scope="module")
def loops_python() -> str:
    named = os.environ.get("GRANARY_LOOPS_PYTHON")
    if named:
        return named
    made = subprocess.run([ROOT / "scripts" / "venv", "--made", "tests/requirements-loops.txt"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip("the environment of tests/requirements-loops.txt has not been made: make test-clients")
    return made.stdout.strip()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_loop(loops_python, server, env, bucket, name, tmp_path):
    path = f"{Path(loops_python).parent}:{env['PATH']}"
    quiet = {"PATH": path, "HOME": str(tmp_path), "HF_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([loops_python, str(PROGRAM), name, server.endpoint, bucket], env=env | quiet, capture_output=True, text=True,
                          timeout=800, cwd=tmp_path)  # fmt: skip
    if done.returncode == 77:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0 and done.stdout.strip().endswith("fine"), done.stdout[-2000:] + done.stderr[-4000:]
