"""Verdicts over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from monitoring.seeds import judge_seeds, welch

losses = st.lists(st.floats(1, 10), min_size=2, max_size=8)


@given(losses, losses, st.sampled_from([0.9, 0.95, 0.99]))
def test_welch_interval_is_that_of_scipy(a: list[float], b: list[float], confidence: float) -> None:
    value, low, high, df = welch(a, b, confidence)
    assert value == pytest.approx(np.mean(b) - np.mean(a))
    if df is None:
        assert low == value == high
        return
    if np.var(a) + np.var(b) > 1e-12:  # SciPy loses digits below
        wanted = stats.ttest_ind(b, a, equal_var=False).confidence_interval(confidence)
        assert (low, high) == (pytest.approx(wanted.low, rel=1e-6), pytest.approx(wanted.high, rel=1e-6))


def runs(lr: float, *seeds: int, **others: Any) -> list[dict[str, Any]]:
    return [{"train.lr": lr, "seed": seed, "name": f"{lr}-{seed}", **others} for seed in seeds]


def test_judge_seeds_clear_difference_is_told_with_its_interval() -> None:
    verdict = judge_seeds([*runs(0.1, 1, 2, 3), *runs(0.2, 1, 2, 3)], [5.0, 5.01, 4.99, 4.5, 4.52, 4.48])
    assert [group.label for group in verdict.groups] == ["train.lr=0.1", "train.lr=0.2"]
    assert [group.runs for group in verdict.groups] == [(0, 1, 2), (3, 4, 5)]
    [found] = verdict.differences
    assert found.value == pytest.approx(-0.5)
    wanted = stats.ttest_ind([4.5, 4.52, 4.48], [5.0, 5.01, 4.99], equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    assert verdict.text.startswith("train.lr=0.2 against train.lr=0.1: validation loss lower by 0.5000 nats per token")


def test_judge_seeds_spread_larger_than_the_difference_is_no_verdict() -> None:
    verdict = judge_seeds([*runs(0.1, 1, 2), *runs(0.2, 1, 2)], [5.0, 6.0, 5.1, 6.2])
    assert "no difference can be told (+0.1500 nats per token" in verdict.text


@pytest.mark.parametrize(
    ("settings", "found", "text"),
    [
        ([*runs(0.1, 1), *runs(0.2, 1)], [5.0, 4.0], "one seed proves nothing"),
        ([*runs(0.1, 1, 2), *runs(0.2, 1)], [5.0, 5.1, 4.0], "one seed proves nothing"),
        (runs(0.1, 1, 2), [5.0, 5.1], "same settings but for their seeds"),
        ([*runs(0.1, 1, 1), *runs(0.2, 2, 2)], [5.0, 5.1, 4.0, 4.1], "one seed proves nothing"),  # a seed run twice
        ([*runs(0.1, 1, 2), *runs(0.2, 1, 2)], [None] * 4, "no validation loss at the same number"),
        ([*runs(0.1, 1, 2), *runs(0.2, 1, 2)], [5.0, 5.1, float("nan"), 4.0], "one seed proves nothing"),
        ([], [], "two runs or more"),
        (runs(0.1, 1), [5.0], "two runs or more"),
    ],
)
def test_judge_seeds_without_several_seeds_says_no_verdict(
    settings: list[dict[str, Any]], found: list[float | None], text: str
) -> None:
    verdict = judge_seeds(settings, found)
    assert verdict.text.startswith("no verdict")
    assert text in verdict.text
    assert verdict.differences == ()


def test_judge_seeds_several_comparisons_have_wider_intervals_and_lone_settings_are_counted() -> None:
    settings = [*runs(0.1, 1, 2, 3), *runs(0.2, 1, 2, 3), *runs(0.3, 1, 2, 3), *runs(0.4, 1)]
    found = [5.0, 5.01, 4.99, 4.5, 4.52, 4.48, 4.0, 4.1, 3.9, 1.0]
    verdict = judge_seeds(settings, found)
    two = judge_seeds(settings[:6], found[:6]).differences[0]
    assert verdict.differences[0].high - verdict.differences[0].low > two.high - two.low
    assert verdict.text.endswith("1 other settings have fewer than two seeds: nothing is proved of them")


def test_judge_seeds_where_and_how_a_run_ran_does_not_part_groups() -> None:
    settings = [*runs(0.1, 1, **{"cluster.workers": 2, "out_dir": "a"}), *runs(0.1, 2, **{"cluster.workers": 4})]
    assert len(judge_seeds(settings, [5.0, 5.1]).groups) == 1
