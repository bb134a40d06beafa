from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.loss_weights import loss_weights

T = 6


def test_loss_weights_of_tokens_are_1_where_a_label_counts() -> None:
    counted = np.array([[True, False, True]])
    weights, terms = loss_weights(counted, None, "tokens")
    assert weights.tolist() == [[1.0, 0.0, 1.0]]
    assert weights.dtype == np.float32
    assert terms == 2


def test_loss_weights_of_fragments_share_1_among_the_labels_of_each_piece() -> None:
    """Row 0 is pieces of 4 and 2 tokens, each without its last label; row 1 one of 6; row 2 pads."""
    counted = np.array([[1, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0] * 6], dtype=bool)
    weights, terms = loss_weights(counted, (np.array([4]), np.array([], int), np.array([], int)), "fragments")
    third, sixth = np.float32(1 / 3), np.float32(1 / 6)
    assert weights.tolist() == [[third, third, third, 0, 1, 0], [sixth] * 6, [0] * 6]
    assert terms == 3


def test_loss_weights_of_fragments_without_borders_take_a_row_for_one() -> None:
    counted = np.array([[True] * 4, [True, False, False, False], [False] * 4])
    weights, terms = loss_weights(counted, None, "fragments")
    assert weights.tolist() == [[0.25] * 4, [1.0, 0, 0, 0], [0.0] * 4]
    assert terms == 2


@given(st.data())
def test_loss_weights_of_fragments_add_up_to_their_number(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 4))
    counted = np.array(
        data.draw(st.lists(st.lists(st.booleans(), min_size=T, max_size=T), min_size=rows, max_size=rows))
    )
    borders = st.sets(st.integers(1, T)).map(lambda places: np.array(sorted(places), dtype=np.int64))
    starts = data.draw(st.lists(borders, min_size=rows, max_size=rows))
    weights, terms = loss_weights(counted, starts, "fragments")
    assert ((weights > 0) == counted).all()
    assert weights.sum() == pytest.approx(terms, rel=1e-5)
