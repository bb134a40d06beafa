from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.slow_rank import WINDOW, Pace, SlowRank, _median_without, own_medians, watch_pace


def watched(rows: list[list[float]], rest_seconds: float = 0.1) -> list[tuple[int, SlowRank]]:
    """(step, who became slow) over the steps, each of which lasts as long as its slowest rank and the rest."""
    pace, all_found = Pace(), []
    for step, row in enumerate(rows, start=1):
        pace, found = watch_pace(pace, max(row) + rest_seconds, row)
        all_found += [(step, slow) for slow in found]
    return all_found


def test_watch_pace_names_a_slow_rank_once_per_spell_within_twenty_steps() -> None:
    level, slow = [0.1, 0.11, 0.1], [0.1, 0.11, 0.3]
    found = watched([level] * 20 + [slow] * 30 + [level] * 20 + [slow] * 20)
    assert [(slow.rank, slow.seconds) for _, slow in found] == [(2, 0.3), (2, 0.3)]
    (first, _), (second, _) = found
    assert 20 < first <= 20 + WINDOW <= 20 + 20
    assert 70 < second <= 70 + WINDOW


def test_watch_pace_of_two_ranks_compares_one_with_the_other() -> None:
    assert watched([[0.5, 0.1]] * WINDOW) == [(WINDOW, SlowRank(0, 0.5, 0.1))]


def test_watch_pace_does_not_name_a_rank_for_a_few_slow_steps_or_a_small_share_of_the_step() -> None:
    assert watched([[0.1, 0.1]] * 20 + [[0.1, 5.0]] * (WINDOW // 2) + [[0.1, 0.1]] * 20) == []
    assert watched([[0.01, 0.03]] * 40) == []
    assert watched([[1.0]] * 40) == []


@given(st.lists(st.lists(st.floats(0.1, 0.19), min_size=4, max_size=4), max_size=40))
def test_watch_pace_of_ranks_within_a_factor_of_two_names_nobody(rows: list[list[float]]) -> None:
    assert watched(rows, rest_seconds=0.0) == []


@given(st.lists(st.floats(0, 10), min_size=2, max_size=9), st.integers(0, 8))
def test_median_without_is_that_of_the_others(values: list[float], number: int) -> None:
    at = number % len(values)
    others = values[:at] + values[at + 1 :]
    assert _median_without(sorted(values), values[at]) == pytest.approx(statistics.median(others))


def test_own_medians_are_those_of_a_full_window() -> None:
    pace = Pace()
    for step in range(WINDOW):
        assert own_medians(pace) == []
        pace, _ = watch_pace(pace, 1.0, [0.1, 0.2 + step])
    assert own_medians(pace) == [0.1, 7.2]
    alone, _ = watch_pace(pace, 1.0, [0.1, 99.0])
    assert own_medians(alone) == [0.1, 8.2]
