"""Processes that a benchmark starts: found however they were made, and none left behind.

Launchers make processes of processes, in sessions of their own. Orphans come to this process, so that whatever a job
started is below it until it is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks.harness.environment import CPU_ONLY
from cluster.chaos.process_table import descendants, read_parents

CORES = 2
_PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.02
GONE_SECONDS = 30.0


def take_charge() -> None:
    """Have what outlives its parent become a child of this process, and a SIGTERM end this one by an exception.

    So the blocks that end a job's processes are left in order. All that is started from here on has the last two cores
    that this process may use, and no GPU. OSError if the kernel refuses.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-CORES:])
    os.environ.update(CPU_ONLY)
    signal.signal(signal.SIGTERM, _leave)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def below(pid: int) -> set[int]:
    """All processes below this one."""
    return descendants([pid], read_parents())


def end_all_below(pid: int, owned: frozenset[int] = frozenset()) -> None:
    """Kill all processes below `pid`, which is this process's own, until none is left.

    owned: children whose exit statuses somebody waits for; those of all others are taken here. Raises: RuntimeError if
    any are left after GONE_SECONDS.
    """
    deadline = time.monotonic() + GONE_SECONDS
    while living := {one for one in below(pid) if not _has_ended(one)}:
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes that do not end by SIGKILL: {sorted(living)}")
        for found in living:
            with suppress(ProcessLookupError):
                os.kill(found, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    _reap_adopted(pid, owned)


def _has_ended(pid: int) -> bool:
    """Whether the process is gone, or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")


def _reap_adopted(pid: int, owned: frozenset[int]) -> None:
    for one, parent in read_parents().items():
        if parent == pid and one not in owned and _has_ended(one):
            with suppress(ChildProcessError):  # whoever started it has reaped it meanwhile
                os.waitpid(one, os.WNOHANG)


@contextmanager
def pinned(cores: frozenset[int]) -> Iterator[None]:
    """This process, and all that it starts meanwhile, on the given cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
