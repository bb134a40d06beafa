from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.packing import label_mask, piece_lengths, separates_documents
from data_shards.permutation import Int64Array

T = 8
NONE: list[int] = []


def rows(*starts: list[int]) -> tuple[Int64Array, ...]:
    return tuple(np.array(row, dtype=np.int64) for row in starts)


@pytest.mark.parametrize(
    ("starts", "lengths"),
    [
        ([NONE], [8]),
        ([[3]], [3, 5]),
        ([[1, 2, 7]], [1, 1, 5, 1]),
        ([[3, 8]], [3, 5]),
        ([[8], [4], NONE], [8, 4, 4, 8]),
    ],
    ids=["one document", "two", "short ones", "one that begins with the last label", "rows"],
)
def test_piece_lengths_of_rows_are_the_gaps_between_starts(starts: list[list[int]], lengths: list[int]) -> None:
    assert piece_lengths(rows(*starts), T).tolist() == lengths


def test_label_mask_leaves_out_first_tokens_of_documents() -> None:
    """Label j is token j + 1 of the row."""
    mask = label_mask(rows([1, 4, 8], NONE), T)
    assert np.flatnonzero(~mask[0]).tolist() == [0, 3, 7]
    assert mask[1].all()
    assert mask.shape == (2, T)


@settings(deadline=None)
@given(st.lists(st.sets(st.integers(1, T)), min_size=1, max_size=5))
def test_packing_of_rows_trains_the_labels_of_each_piece_alone(starts: list[set[int]]) -> None:
    tokens = np.arange(T + 1)
    given_starts = rows(*map(sorted, starts))
    alone = []
    for row in given_starts:
        for piece in np.split(tokens, row):
            alone += piece[1:].tolist()
    packed = np.tile(tokens[1:], (len(starts), 1))[label_mask(given_starts, T)]
    assert packed.tolist() == alone
    lengths = piece_lengths(given_starts, T)
    assert lengths.min() > 0
    assert lengths.sum() == T * len(starts)


@pytest.mark.parametrize(("packing", "separates"), [("stream", False), ("documents", True), ("sentence_pairs", True)])
def test_separates_documents_holds_for_all_but_stream(packing: str, separates: bool) -> None:
    assert separates_documents(packing) is separates
