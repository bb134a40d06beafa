from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards import batches as module
from data_shards.batches import (
    Batch,
    Part,
    TextBatch,
    TokenBatch,
    Withdrawal,
    joined,
    text_batches,
)
from tests.data_shards.reading import documents_of

PARTS = st.lists(st.tuples(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.booleans()))


def parts_of(documents: Sequence[tuple[list[str], bool]]) -> list[Part]:
    """Documents of parts; those marked are withdrawn after their first part."""
    parts: list[Part] = []
    for texts, is_bad in documents:
        if is_bad:
            parts += [(texts[0], True), Withdrawal()]
        else:
            parts += [(text, i < len(texts) - 1) for i, text in enumerate(texts)]
    return parts


@given(PARTS, st.integers(1, 9))
def test_batches_hold_the_documents_of_the_parts_and_their_places(
    documents: list[tuple[list[str], bool]], size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_BYTES", size)
        batches = list(text_batches(parts_of(documents), lambda i: f"line {i}"))
        again = list(joined(batches))
    good = ["".join(texts) for texts, is_bad in documents if not is_bad]
    assert documents_of(batches) == documents_of(again) == good
    assert all(sum(map(len, batch.texts[:-1])) < size for batch in batches if isinstance(batch, TextBatch))
    assert first_places(batches) == [f"line {i}" for i in range(len(documents))]


def first_places(batches: Sequence[Batch]) -> list[str]:
    """The place of each document, where its first part is."""
    places = []
    goes_on = False
    for batch in batches:
        if isinstance(batch, TextBatch):
            assert batch.place is not None
            places += [batch.place(i) for i in range(goes_on, len(batch.texts))]
            goes_on = batch.unfinished
        else:
            goes_on = False
    return places


def test_joined_puts_small_batches_together_and_lets_tokens_through() -> None:
    tokens = TokenBatch(np.array([1], np.uint32), np.array([0, 1]))
    batches = list(joined([TextBatch(["a"]), TextBatch(["b", "c"]), tokens, TextBatch(["d"], unfinished=True)]))
    assert batches == [TextBatch(["a", "b", "c"]), tokens, TextBatch(["d"], unfinished=True)]
