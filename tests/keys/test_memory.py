"""Keys in memory, as the kernel sees the process: locked, left out of core dumps; no core file, no peeking by others."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.harness import Server, boto3_client


def mappings(pid: int) -> list[tuple[int, set[str]]]:
    """Size in KiB and flags (`VmFlags`, proc(5)) of each mapping."""
    found = []
    size = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith("Size:"):
            size = int(line.split()[1])
        elif line.startswith("VmFlags:"):
            found.append((size, set(line.split()[1:])))
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="a process that is not dumpable shows its memory map to root only")
def test_pages_of_keys_are_locked_and_left_out_of_core_dumps():
    with Server(preset=None) as server:
        server.start()
        pid = server.process.pid
        s3 = boto3_client(server.endpoint)
        secret = lambda: sum(size for size, flags in mappings(pid) if {"dd", "lo"} <= flags and "rd" in flags)  # noqa: E731
        before = secret()
        assert before >= 4, "the root key lies on such a page"
        assert "the system refuses to lock memory" not in server.log()
        # Each bucket whose keys are open has pages more.
        for number in range(8):
            s3.create_bucket(Bucket=f"bucket-{number}")
            s3.put_object(Bucket=f"bucket-{number}", Key="k", Body=b"x")
        assert secret() >= before + 8 * 4
        assert not [flags for _, flags in mappings(pid) if "lo" in flags and "dd" not in flags], "all that is locked is left out"


def test_no_core_file_is_ever_written():
    with Server(preset=None) as server:
        server.start()
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        assert re.search(r"^Max core file size\s+0\s+0\s", limits, re.M), limits
        # Not dumpable (PR_SET_DUMPABLE): what /proc shows of it is root's, whoever it runs as.
        assert os.stat(f"/proc/{server.process.pid}/environ").st_uid == 0
