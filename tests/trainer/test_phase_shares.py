"""Shares of a step, from traces written by hand and from any intervals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.phase_shares import ROWS, StepShares, _both, _length, _minus, _union, mean_shares, shares


def event(name: str, start: float, end: float, cat: str = "cpu_op") -> dict[str, Any]:
    return {"ph": "X", "name": name, "cat": cat, "ts": 1e6 * start, "dur": 1e6 * (end - start)}


def mark(name: str, start: float, end: float) -> dict[str, Any]:
    return event(name, start, end, "user_annotation")


STEP = [
    mark("ProfilerStep#3", 0, 10),
    mark("headrace data", 0, 1),
    mark("headrace forward", 1, 3),
    mark("headrace backward", 3, 8),
    mark("headrace optimizer", 8, 9),
]


def rounded(found: StepShares) -> dict[str, float]:
    return {row: round(seconds, 9) for row, seconds in found.seconds.items()}


def test_shares_of_a_step_on_processors_take_waiting_for_others_out_of_its_parts() -> None:
    work = [
        event("aten::mm", 1, 3),
        event("aten::mm", 3, 6),
        event("c10d::allreduce_", 5.9, 6),
        mark("gloo:all_reduce", 5, 7.5),  # a second of it behind the product
        event("aten::add_", 8.2, 9),
    ]
    found = shares([*STEP, *work, {"ph": "M", "name": "process_name"}])
    assert (found.steps, found.step_seconds) == (1, 10.0)
    assert rounded(found) == {
        **{"data": 1.0, "forward": 2.0, "backward": 3.5, "communication": 1.5, "optimizer": 1.0, "other": 1.0},
    }


def test_shares_of_a_gpu_are_read_off_its_kernels() -> None:
    work = [
        event("c10d::allreduce_", 3, 8),  # the processor's part, which waits for nothing
        event("gemm", 1, 7, "kernel"),
        event("ncclDevKernel_AllReduce", 6, 8, "kernel"),
        event("Memcpy HtoD", 8, 8.5, "gpu_memcpy"),
        event("headrace forward", 0, 9, "gpu_user_annotation"),
    ]
    found = rounded(shares([*STEP, *work]))
    assert found["communication"] == 1.0
    assert found["backward"] == 4.0
    assert found["forward"] == 2.0


def test_shares_are_of_one_step_in_the_mean() -> None:
    later = [{**one, "ts": one["ts"] + 2e7, "name": one["name"].replace("#3", "#4")} for one in STEP]
    found = shares([*STEP, *later])
    assert (found.steps, found.step_seconds) == (2, 10.0)
    assert rounded(found)["backward"] == 5.0


def test_trace_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="no step"):
        shares([mark("headrace data", 0, 1)])


def test_mean_over_ranks() -> None:
    one = StepShares(2, 1.0, dict.fromkeys(ROWS, 1.0))
    other = StepShares(2, 3.0, dict.fromkeys(ROWS, 2.0))
    assert mean_shares([one, other]) == StepShares(2, 2.0, dict.fromkeys(ROWS, 1.5))


INTERVALS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)).map(lambda pair: (pair[0], pair[0] + pair[1])))


@given(INTERVALS, INTERVALS)
def test_intervals_are_sets_of_moments(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> None:
    def moments(intervals: list[tuple[float, float]]) -> set[int]:
        return {moment for start, end in intervals for moment in range(int(start), int(end))}

    one, other = _union(first), _union(second)
    assert moments(one) == moments(first)
    assert _length(one) == len(moments(first))
    assert moments(_both(one, other)) == moments(first) & moments(second)
    assert moments(_minus(one, other)) == moments(first) - moments(second)


@given(st.lists(st.tuples(st.sampled_from(["aten::mm", "c10d::x", "gloo:y"]), st.integers(0, 11), st.integers(0, 4))))
def test_shares_sum_to_the_step_whatever_ran(work: list[tuple[str, int, int]]) -> None:
    events = [event(name, start, start + size) for name, start, size in work]
    found = shares([*STEP, *events])
    assert sum(found.seconds.values()) == pytest.approx(found.step_seconds)
    assert min(found.seconds.values()) >= 0
