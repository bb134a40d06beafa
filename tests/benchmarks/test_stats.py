from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.stats import Estimate, estimate, ratio, turns


def test_estimate_of_five_values_gives_the_median_and_an_interval_within_them() -> None:
    found = estimate([5.0, 1.0, 3.0, 2.0, 4.0])
    assert found.median == 3.0
    assert 1.0 <= found.low < 3.0 < found.high <= 5.0


def test_estimate_of_equal_values_is_sure() -> None:
    assert estimate([2.0, 2.0, 2.0]) == Estimate(2.0, 2.0, 2.0)


def test_estimate_of_the_same_values_is_always_the_same() -> None:
    assert estimate([1.0, 2.0, 4.0]) == estimate([1.0, 2.0, 4.0])


def test_estimate_of_normal_values_covers_their_median_nineteen_times_in_twenty() -> None:
    samples = np.random.default_rng(0).normal(10.0, 1.0, (200, 25))
    found = [estimate(sample.tolist(), seed) for seed, sample in enumerate(samples)]
    covered = np.mean([one.low <= 10.0 <= one.high for one in found])
    assert 0.9 <= covered <= 0.99


def test_estimate_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one repetition"):
        estimate([])


def test_ratio_is_of_the_medians_and_its_interval_of_both_spreads() -> None:
    found = ratio([40.0, 44.0, 36.0], [2.0, 2.0, 2.0])
    assert (found.median, found.low, found.high) == (20.0, 18.0, 22.0)


def test_ratio_of_one_value_each_has_no_spread() -> None:
    assert ratio([6.0], [2.0]) == Estimate(3.0, 3.0, 3.0)


def test_turns_go_forward_and_back_so_that_no_arm_is_always_first() -> None:
    assert turns(3, 3) == [0, 1, 2, 2, 1, 0, 0, 1, 2]
    assert turns(2, 2) == [0, 1, 1, 0]
