from __future__ import annotations

import pytest

from benchmarks.checkpoint.blocks import (
    Save,
    durable_seconds,
    first_cost,
    is_saved,
    late_saves,
    quiet_step_seconds,
    run_steps,
    save_costs,
)

BLOCK = 2
STEPS = run_steps(pairs=2, block=BLOCK)
STEP_SECONDS = 1.0


def ends(cost: float, first: float, drift: float = 0.0) -> dict[int, float]:
    """Each save makes the step after it longer; drift: seconds by which each step is longer than the one before."""
    at, found = 100.0, {}
    for step in range(1, STEPS + 1):
        at += STEP_SECONDS + drift * step
        if is_saved(step - 1, BLOCK, STEPS):
            at += first if step - 1 == 2 * BLOCK else cost
        found[step] = at
    return found


def saves(times: dict[int, float], durable_after: float | None) -> list[Save]:
    saved = [step for step in times if is_saved(step, BLOCK, STEPS)]
    return [Save(step, times[step], None if durable_after is None else times[step] + durable_after) for step in saved]


def test_saves_come_every_second_block_and_not_after_the_last_step() -> None:
    assert STEPS == 16
    assert [step for step in range(STEPS + 1) if is_saved(step, BLOCK, STEPS)] == [4, 8, 12]


def test_save_costs_leave_out_the_first_save_which_is_told_by_itself() -> None:
    times = ends(cost=0.25, first=3.0)
    assert save_costs(times, saves(times, 1.0), BLOCK) == pytest.approx([0.25, 0.25])
    assert first_cost(times, saves(times, 1.0), BLOCK) == pytest.approx(3.0)
    assert quiet_step_seconds(times, saves(times, 1.0), BLOCK) == pytest.approx(STEP_SECONDS)


def test_save_costs_are_free_of_a_steady_drift() -> None:
    times = ends(cost=0.25, first=0.25, drift=0.05)
    assert save_costs(times, saves(times, 1.0), BLOCK) == pytest.approx([0.25, 0.25])


def test_durable_seconds_of_a_writer_that_never_syncs_are_not_told() -> None:
    times = ends(cost=0.0, first=0.0)
    assert durable_seconds(saves(times, 1.5)) == pytest.approx([1.5, 1.5])
    assert durable_seconds(saves(times, None)) == []


def test_late_saves_are_those_still_under_way_when_their_block_ends() -> None:
    times = ends(cost=0.0, first=0.0)
    assert late_saves(times, saves(times, BLOCK * STEP_SECONDS - 0.1), BLOCK) == 0
    assert late_saves(times, saves(times, BLOCK * STEP_SECONDS + 0.1), BLOCK) == 2
    assert late_saves(times, saves(times, None), BLOCK) == 0
