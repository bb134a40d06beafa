"""A process that keeps what it frees: the variable, and that freed memory is not fetched from the kernel anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.allocator import VARIABLE, keeping_memory

# Pages that the kernel had to give while a freed tensor's memory was asked for once more, ten times.
FAULTS_OF_TEN_MORE = """
import resource, sys
{before}
size = 64 << 20
def touch():
    block = bytearray(size)
    for at in range(0, size, 4096):
        block[at] = 1
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
RESTART = "from trainer.allocator import restart_keeping_memory; restart_keeping_memory()"
PAGES_OF_TEN = 10 * (64 << 20) // 4096


def faults(before: str, environment: dict[str, str]) -> int:
    plain = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-c", FAULTS_OF_TEN_MORE.format(before=before)]
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        command,
        env={**plain, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return int(done.stdout)


def test_keeping_memory_leaves_what_is_tuned_already() -> None:
    given = {VARIABLE: "glibc.malloc.hugetlb=0:glibc.malloc.arena_max=2"}
    found = keeping_memory(given)[VARIABLE].split(":")
    assert {"glibc.malloc.mmap_max=0", "glibc.malloc.hugetlb=0", "glibc.malloc.arena_max=2"} < set(found)
    assert len(found) == 4
    assert keeping_memory(keeping_memory(given)) == keeping_memory(given)


def test_process_with_the_variable_fetches_memory_once() -> None:
    assert faults("", {}) > PAGES_OF_TEN / 2
    assert faults("", keeping_memory({})) < PAGES_OF_TEN / 100


def test_restarted_process_fetches_memory_once_and_runs_the_same_command() -> None:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("a process on a machine with GPUs is not restarted")
    assert faults(RESTART, {}) < PAGES_OF_TEN / 100
