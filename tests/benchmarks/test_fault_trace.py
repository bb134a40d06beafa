from __future__ import annotations

import statistics
from itertools import pairwise

import pytest

from benchmarks.faults.goodput import bound, goodput
from benchmarks.faults.trace import CUT_SHARD, KILL, RARE, failure_trace, restarts_of, stops_of


def test_failure_trace_is_the_same_for_a_seed_and_another_for_another() -> None:
    assert failure_trace(3, 600.0, 30.0, 2) == failure_trace(3, 600.0, 30.0, 2)
    assert failure_trace(3, 600.0, 30.0, 2) != failure_trace(4, 600.0, 30.0, 2)


@pytest.mark.parametrize("seed", range(5))
def test_failure_trace_has_each_rare_failure_once_and_keeps_within_its_time(seed: int) -> None:
    trace = failure_trace(seed, 600.0, 30.0, 2)
    assert [failure.at for failure in trace] == sorted(failure.at for failure in trace)
    assert all(0 < failure.at < 600.0 for failure in trace)
    assert sorted(failure.kind for failure in trace if failure.kind != KILL) == sorted(RARE)
    assert {failure.rank for failure in trace if failure.kind == KILL} <= {0, 1}


def test_failure_trace_has_kills_of_the_given_mean() -> None:
    times = [failure.at for failure in failure_trace(1, 30_000.0, 30.0, 2) if failure.kind == KILL]
    assert statistics.mean(b - a for a, b in pairwise(times)) == pytest.approx(30.0, rel=0.1)


def test_restarts_and_stops_count_what_certainly_ends_an_attempt() -> None:
    trace = failure_trace(1, 600.0, 30.0, 2)
    kinds = [failure.kind for failure in trace]
    assert restarts_of(kinds) == len(trace) - 1
    assert [failure.kind for failure in trace].count(CUT_SHARD) == 1
    assert stops_of(kinds) == 1


def test_goodput_is_what_new_steps_are_worth_over_the_wall_time() -> None:
    assert goodput(new_steps=900, step_seconds=0.5, wall_seconds=600.0) == 0.75


def test_bound_takes_off_what_each_restart_and_all_stalls_cost() -> None:
    assert bound(wall_seconds=600.0, restarts=20, lost_seconds=1.5, stall_seconds=6.0) == pytest.approx(0.94)
    assert bound(wall_seconds=10.0, restarts=20, lost_seconds=1.5, stall_seconds=6.0) == 0.0
