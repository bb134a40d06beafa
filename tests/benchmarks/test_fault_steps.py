from __future__ import annotations

import pytest

from benchmarks.faults.steps import Step, newest, recovery, step_seconds

BEFORE = [Step(1, 10.0, 1), Step(2, 11.0, 1), Step(3, 12.0, 1)]


def test_recovery_counts_steps_run_again_and_the_first_step_with_a_new_number() -> None:
    after = [Step(2, 18.0, 2), Step(3, 19.0, 2), Step(4, 20.0, 2), Step(5, 21.0, 2)]
    found = recovery([*BEFORE, *after], killed=12.5, step_seconds=1.0)
    assert found is not None
    assert (found.completed, found.replayed_steps) == (3, 2)
    assert (found.next_step_seconds, found.new_step_seconds) == (5.5, 7.5)
    assert found.lost_seconds == 7.0  # eight seconds between steps 3 and 4, of which one is a step


def test_recovery_of_a_run_that_goes_on_where_it_was_runs_nothing_again() -> None:
    found = recovery([*BEFORE, Step(4, 13.2, 2)], killed=12.5, step_seconds=1.0)
    assert found is not None
    assert (found.replayed_steps, found.new_step_seconds) == (0, pytest.approx(0.7))
    assert found.lost_seconds == pytest.approx(0.2)


def test_recovery_does_not_count_a_step_that_the_killed_attempt_still_completed() -> None:
    late = Step(4, 12.6, 1)
    assert recovery([*BEFORE, late], killed=12.5, step_seconds=1.0) is None
    found = recovery([*BEFORE, late, Step(4, 15.0, 2), Step(5, 16.0, 2)], killed=12.5, step_seconds=1.0)
    assert found is not None
    assert (found.completed, found.replayed_steps, found.new_step_seconds) == (4, 1, 3.5)


def test_recovery_waits_while_old_steps_are_run_again() -> None:
    assert recovery(BEFORE, killed=12.5, step_seconds=1.0) is None
    assert recovery([*BEFORE, Step(3, 14.0, 2)], killed=12.5, step_seconds=1.0) is None


def test_recovery_of_a_run_without_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="no step was completed before the kill"):
        recovery(BEFORE, killed=9.0, step_seconds=1.0)


def test_step_seconds_leave_out_the_gaps_of_restarts() -> None:
    steps = [*BEFORE, Step(4, 20.0, 2), Step(5, 21.5, 2), Step(6, 22.5, 2)]
    assert step_seconds(steps) == 1.0
    assert newest(steps) == 6
    assert newest([]) == 0
