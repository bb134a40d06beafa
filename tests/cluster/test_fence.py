"""A supervisor that comes back after a newer attempt has begun ends its rank before anything of it counts."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import processes
from cluster.fence import Fence
from cluster.gang_journal import journal_path
from cluster.rank_watch import PAUSE_SECONDS
from tests.cluster.gang_process import make_spec, read_lines, start_process, wait_until
from trainer.attempts import take_attempt

pytestmark = pytest.mark.slow


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started = []

    def run(*arguments: Any) -> subprocess.Popen[bytes]:
        started.append(start_process(*arguments))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def begin(out_dir: Path, start: Callable[..., subprocess.Popen[bytes]]) -> tuple[subprocess.Popen[bytes], int]:
    """A gang of one that trains; its supervisor, and its rank's process id."""
    supervisor = start(make_spec(out_dir, 10**9, pace_seconds=0.01), 0, 1)
    wait_until(lambda: len(read_lines(journal_path(out_dir, 1))) > 2)
    [entered] = read_lines(out_dir / "entered.jsonl")
    return supervisor, entered["pid"]


def check_fenced(out_dir: Path, supervisor: subprocess.Popen[bytes], rank_fd: int) -> list[dict[str, Any]]:
    """That rank and supervisor end as they must; the journal's lines."""
    assert processes.is_over(rank_fd, 3.0)
    supervisor.wait(5.0)
    [end] = read_lines(out_dir / "end-0.json")
    assert (end["status"], end["kind"]) == ("failed", "infrastructure")
    assert "attempt 2 has begun elsewhere, so attempt 1 was ended" in end["text"]
    lines = read_lines(journal_path(out_dir, 1))
    assert (lines[-1]["event"], lines[-1]["attempt"], lines[-1]["newest"]) == ("fenced", 1, 2)
    return lines


def test_fence_newer_attempt_ends_a_rank_that_trains(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    supervisor, rank_pid = begin(tmp_path, start)
    rank_fd = os.pidfd_open(rank_pid)
    assert take_attempt(tmp_path) == 2
    check_fenced(tmp_path, supervisor, rank_fd)
    os.close(rank_fd)


def test_fence_supervisor_and_rank_that_were_stopped_write_nothing_any_more(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    supervisor, rank_pid = begin(tmp_path, start)
    rank_fd = os.pidfd_open(rank_pid)
    for pid in (supervisor.pid, rank_pid):
        os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    checkpoint = tmp_path / "checkpoint"
    reached = int(checkpoint.read_text())
    take_attempt(tmp_path)
    wait_until(lambda: time.monotonic() > stopped + PAUSE_SECONDS + 0.1)
    os.kill(rank_pid, signal.SIGCONT)
    # The rank goes on before its supervisor does: what it sends down the pipe must not be passed on.
    wait_until(lambda: int(checkpoint.read_text()) > reached + 5)
    os.kill(supervisor.pid, signal.SIGCONT)
    lines = check_fenced(tmp_path, supervisor, rank_fd)
    assert lines[-2]["step"] in (reached - 1, reached, reached + 1)  # those that were sent before the stop
    os.close(rank_fd)


def test_fence_newer_attempt_is_what_every_supervisor_of_a_gang_tells(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Whichever looks first, and whatever the others hear of it."""
    spec = make_spec(tmp_path, 10**9, pace_seconds=0.01)
    supervisors = [start(spec, rank, 2) for rank in (0, 1)]
    wait_until(lambda: len(read_lines(journal_path(tmp_path, 1))) > 2)
    assert take_attempt(tmp_path) == 2
    for rank, supervisor in enumerate(supervisors):
        supervisor.wait(10.0)
        [end] = read_lines(tmp_path / f"end-{rank}.json")
        assert "attempt 2 has begun elsewhere, so attempt 1 was ended" in end["text"]


def test_fence_sees_attempts_as_they_are_taken(tmp_path: Path) -> None:
    fence = Fence(tmp_path, poll_seconds=0.01)
    assert fence.newest == 0
    for attempt in (1, 2):
        take_attempt(tmp_path)
        wait_until(lambda attempt=attempt: fence.newest == attempt)
    fence.close()


def test_fence_folder_that_cannot_be_read_is_borne(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fence = Fence(tmp_path, poll_seconds=60.0)
    take_attempt(tmp_path)
    assert fence.look() == 1

    def refuse(_: Path) -> int:
        raise OSError("stale file handle")

    monkeypatch.setattr("cluster.fence.newest_attempt", refuse)
    assert fence.look() == 1
    fence.close()
