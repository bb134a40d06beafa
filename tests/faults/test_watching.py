"""Ranks and supervisors that are stopped, killed, or come back: found in time, named, ended; the run stays exact."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from cluster import processes
from tests.cluster.gang_process import read_lines
from tests.end_to_end.headrace import events, newest_step
from tests.faults.gang_run import DEADLINE_SECONDS, family, freeze, gang_spec, losses, running

pytestmark = [pytest.mark.faults, pytest.mark.slow]

STEPS = 40
RUN = {"train__max_steps": STEPS, "eval__interval": 10, "checkpoint__snapshot_interval": 1}
HANG_SECONDS = 3.0
# At each attempt one or two ranks stop, in another phase each time.
STOPS = [
    [(1, 6, "forward")],
    [(0, 12, "backward")],
    [(1, 20, "eval")],
    [(0, 25, "data"), (1, 25, "data")],
    [(1, 31, "step")],
]
COMPILER_OPS = ("deepspeed_shm_comm", "deepspeed_ccl_comm", "cpu_adam", "fused_adam", "pin_memory")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watching")


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Mapping[int, tuple[str, str]]:
    """The losses of a run that nothing happens to, but for the locks of a compiler that was killed."""
    locks = [folder / "extensions" / name / "lock" for name in COMPILER_OPS]
    for lock in locks:
        lock.parent.mkdir(parents=True)
        lock.touch()
    spec = gang_spec(folder, "undisturbed", env={"TORCH_EXTENSIONS_DIR": str(folder / "extensions")}, **RUN)
    with running(spec) as gang:
        assert gang.wait_for_end() == ["finished"] * 2
    assert all(lock.exists() for lock in locks)
    return losses(spec.out_path)


@pytest.mark.timeout(3 * DEADLINE_SECONDS)
def test_rank_stopped_is_named_within_twice_the_limit_wherever_it_is(
    folder: Path, undisturbed: Mapping[int, tuple[str, str]]
) -> None:
    stops = [
        {"attempt": attempt, "rank": rank, "step": step, "phase": phase}
        for attempt, places in enumerate(STOPS, start=1)
        for rank, step, phase in places
    ]
    limits = {"hang_seconds": HANG_SECONDS}
    entry = "tests.faults.stopping_rank"
    spec = gang_spec(folder, "stopped", entry=entry, limits=limits, spec={"stops": stops}, **RUN)
    with running(spec) as gang:
        assert gang.wait_for_end() == ["finished"] * 2
    deaths = events(spec.out_path, "rank_dead")
    assert len(deaths) == len(STOPS)
    for attempt, (death, places) in enumerate(zip(deaths, STOPS, strict=True), start=1):
        assert (death["attempt"], death["kind"]) == (attempt, "hang")
        assert (death["rank"], death["step"], death["phase"]) in places
        assert death["node"] == f"node{death['rank']}"
        assert death["reason"].startswith("stopped or starved")
        assert HANG_SECONDS - 1.0 < death["detected_seconds"] < 2 * HANG_SECONDS
        restarted = next(event for event in events(spec.out_path, "restart") if event["attempt"] == attempt + 1)
        assert restarted["resumed_step"] >= places[0][1] - 1  # at most one step is run again
    assert losses(spec.out_path) == undisturbed


@pytest.mark.long
@pytest.mark.timeout(4 * DEADLINE_SECONDS)
def test_node_that_freezes_and_comes_back_is_fenced_and_a_killed_supervisor_takes_its_rank(
    folder: Path, undisturbed: Mapping[int, tuple[str, str]]
) -> None:
    """Three gangs after one another: the first loses a frozen node, the second a killed supervisor."""
    spec = gang_spec(folder, "comes-back", limits={"ping_seconds": 1.0}, **RUN)
    with running(spec) as old:
        old.wait_for_step(8)
        frozen = family(old.supervisors[1].pid)
        freeze(frozen)
        old.supervisors[0].wait(DEADLINE_SECONDS)
        [end] = read_lines(spec.out_path / "end-0.json")
        assert "lost the supervisor of rank 1 on node1: silent for" in end["text"]
        with running(spec) as new:
            new.wait_for_step(newest_step(spec.out_path) + 3)
            frozen_fds = [os.pidfd_open(pid) for pid in frozen]
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
            deadline = time.monotonic() + 10.0
            assert all(processes.is_over(fd, deadline - time.monotonic()) for fd in frozen_fds)
            killed = family(new.supervisors[1].pid)
            killed_fds = [os.pidfd_open(pid) for pid in killed]
            new.supervisors[1].kill()
            deadline = time.monotonic() + 5.0
            assert all(processes.is_over(fd, deadline - time.monotonic()) for fd in killed_fds)
            new.supervisors[0].wait(DEADLINE_SECONDS)
        with running(spec) as last:
            assert last.wait_for_end() == ["finished"] * 2
    for fd in (*frozen_fds, *killed_fds):
        os.close(fd)
    assert losses(spec.out_path) == undisturbed


@pytest.mark.long
def test_compiler_lock_that_was_left_behind_is_not_waited_for(undisturbed: Mapping[int, tuple[str, str]]) -> None:
    """The undisturbed run found the lock of every operation that DeepSpeed may compile, and left them alone."""
    assert list(undisturbed) == list(range(1, STEPS + 1))
