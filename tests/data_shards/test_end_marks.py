import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.batches import TokenBatch
from data_shards.end_marks import without_last_end_marks

EOT = 0


def batch_of(documents: list[list[int]], unfinished: bool = False) -> TokenBatch:
    ids = np.array([token for document in documents for token in document], dtype=np.uint32)
    return TokenBatch(ids, np.cumsum([0, *map(len, documents)]), unfinished)


def documents_of(batch: TokenBatch) -> list[list[int]]:
    return [part.tolist() for part in np.split(batch.ids, batch.offsets[1:-1])]


def test_last_end_marks_are_dropped_and_others_stay() -> None:
    batch = batch_of([[1, EOT], [2], [EOT, 3, EOT], [EOT], [4, EOT, EOT]])
    found = without_last_end_marks(batch, EOT)
    assert documents_of(found) == [[1], [2], [EOT, 3], [], [4, EOT]]
    assert (found.ids.dtype, found.offsets.dtype) == (np.uint32, np.int64)


def test_last_end_marks_of_what_goes_on_stay() -> None:
    found = without_last_end_marks(batch_of([[1, EOT], [2, EOT]], unfinished=True), EOT)
    assert (documents_of(found), found.unfinished) == ([[1], [2, EOT]], True)


def test_batch_without_end_marks_is_given_back_as_it_is() -> None:
    batch = batch_of([[1, 2], [3]])
    assert without_last_end_marks(batch, EOT) is batch


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=8), st.booleans())
def test_last_end_marks_of_any_batch(documents: list[list[int]], unfinished: bool) -> None:
    found = without_last_end_marks(batch_of(documents, unfinished), EOT)
    kept = documents[-1:] if unfinished else []
    whole = documents[: len(documents) - len(kept)]
    assert documents_of(found) == [ids[:-1] if ids[-1] == EOT else ids for ids in whole] + kept
