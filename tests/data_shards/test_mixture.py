from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.mixture import MAX_PERIOD, Mixture, integer_shares, share_sequence

small_shares = st.lists(st.integers(1, 60), min_size=1, max_size=7)


@given(shares=small_shares)
def test_share_sequence_any_shares_keeps_tijdemans_bound_at_every_position(shares: list[int]) -> None:
    sequence, total = share_sequence(shares), sum(shares)
    bound = 1 - Fraction(1, max(2, 2 * len(shares) - 2))
    positions = np.arange(1, total + 1)
    for k, share in enumerate(shares):
        off_by = np.abs(np.cumsum(sequence == k) * total - positions * share)
        assert Fraction(int(off_by.max()), total) <= bound


@given(shares=small_shares, start=st.integers(0, 10**12))
def test_mixture_any_position_agrees_with_counting(shares: list[int], start: int) -> None:
    mixture = Mixture([float(share) for share in shares])
    source, index = mixture.locate(np.arange(start, start + 50))
    taken = mixture.taken(start)
    for k, found in zip(source.tolist(), index.tolist(), strict=True):
        assert found == taken[k]
        taken[k] += 1
    assert taken == mixture.taken(start + 50)
    assert sum(taken) == start + 50


@settings(max_examples=20)  # each builds a period of 65,536
@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=8), position=st.integers(0, MAX_PERIOD))
def test_mixture_any_weights_are_kept_to_one_sequence_of_their_shares(weights: list[float], position: int) -> None:
    mixture = Mixture(weights)
    for taken, share in zip(mixture.taken(position), mixture.shares, strict=True):
        assert abs(Fraction(taken) - Fraction(share * position, mixture.period)) < 1


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ([0.7, 0.3], [7, 3]),
        ([1, 1, 1], [1, 1, 1]),
        ([2.5], [1]),
        ([0.125, 0.875], [1, 7]),
        ([30, 0.5, 12], [60, 1, 24]),
    ],
)
def test_integer_shares_short_decimals_are_exact(weights: list[float], shares: list[int]) -> None:
    assert integer_shares(weights) == shares


@given(weights=st.lists(st.floats(1e-2, 1e2), min_size=2, max_size=8))
def test_integer_shares_long_decimals_are_near_and_bounded(weights: list[float]) -> None:
    shares, total = integer_shares(weights), sum(weights)
    assert sum(shares) <= MAX_PERIOD
    for share, weight in zip(shares, weights, strict=True):
        assert share == 1 or abs(share / sum(shares) - weight / total) < 1.001 / MAX_PERIOD


def test_integer_shares_tiny_weights_keep_one_share_each() -> None:
    assert integer_shares([1e-9, 1.0, 1e-9]) == [1, MAX_PERIOD - 2, 1]
