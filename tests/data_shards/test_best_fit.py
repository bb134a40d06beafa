from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.best_fit import best_fit_rows, mixed_rows

MOST = 40
LENGTHS = st.lists(st.integers(1, MOST), max_size=200)


def spaces(lengths: Sequence[int], rows: Sequence[Sequence[int]]) -> list[int]:
    return [MOST - sum(lengths[index] for index in row) for row in rows]


@given(LENGTHS)
def test_best_fit_rows_hold_every_example_once_and_none_is_overfull(lengths: list[int]) -> None:
    rows = best_fit_rows(lengths, MOST)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 <= space < MOST for space in spaces(lengths, rows))


@given(LENGTHS)
def test_best_fit_rows_leave_at_most_one_row_half_empty(lengths: list[int]) -> None:
    assert sum(2 * space >= MOST for space in spaces(lengths, best_fit_rows(lengths, MOST))) <= 1


@settings(max_examples=50)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=5))
def test_best_fit_rows_are_at_most_eleven_ninths_of_the_fewest(lengths: list[int]) -> None:
    fewest = min(
        len(set(owners))
        for owners in product(range(len(lengths)), repeat=len(lengths))
        if max(np.bincount(owners, lengths)) <= 10
    )
    assert len(best_fit_rows(lengths, 10)) <= 11 / 9 * fewest + 6 / 9


@given(LENGTHS)
def test_best_fit_rows_take_the_row_with_the_least_space_that_is_enough(lengths: list[int]) -> None:
    left: list[int] = []
    rows = best_fit_rows(lengths, MOST)
    owner = {index: number for number, row in enumerate(rows) for index in row}
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        enough = [space for space in left if space >= lengths[index]]
        if owner[index] == len(left):
            assert not enough
            left.append(MOST)
        else:
            assert left[owner[index]] == min(enough)
        left[owner[index]] -= lengths[index]


def test_best_fit_rows_of_random_lengths_are_almost_full() -> None:
    lengths = np.random.default_rng(7).integers(5, 200, size=5000).tolist()
    rows = best_fit_rows(lengths, 256)
    assert 1 - sum(lengths) / (256 * len(rows)) < 0.01


@pytest.mark.parametrize("length", [0, MOST + 1])
def test_best_fit_rows_with_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=rf"lengths are .*{length}.* within 1 and {MOST}"):
        best_fit_rows([3, length], MOST)


def test_mixed_rows_have_rows_of_long_and_short_examples_among_the_first() -> None:
    lengths = [1 + number % 64 for number in range(6400)]
    rows = best_fit_rows(lengths, 64)
    mixed = mixed_rows(rows)
    assert sorted(mixed) == sorted(rows) and mixed_rows(rows) == mixed
    longest, longest_mixed = ([max(lengths[index] for index in row) for row in these] for these in (rows, mixed))
    tenth, mean = len(rows) // 10, sum(longest) / len(rows)
    assert sum(longest[:tenth]) / tenth > mean + 10  # what best fit leaves
    assert abs(sum(longest_mixed[:tenth]) / tenth - mean) < 3
