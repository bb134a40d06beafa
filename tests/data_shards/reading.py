"""What readers give, put together again, and what writers take."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from data_shards.batches import Batch, TextBatch, TokenBatch, Withdrawal


def documents_of(batches: Iterable[Batch]) -> list[str]:
    """The whole texts of batches of texts, with the rules of `data_shards.batches` asserted."""
    documents: list[str] = []
    goes_on = False
    for batch in batches:
        assert not isinstance(batch, TokenBatch)
        if isinstance(batch, Withdrawal):
            assert goes_on
            documents.pop()
            goes_on = False
            continue
        assert isinstance(batch, TextBatch)
        assert batch.texts and all(batch.texts)
        first, *rest = batch.texts
        if goes_on:
            documents[-1] += first
        else:
            documents.append(first)
        documents += rest
        goes_on = batch.unfinished
    assert not goes_on
    return documents


def flat(documents: Sequence[Sequence[int]]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Documents of ids in one array, and where each begins and the last one ends."""
    offsets = np.cumsum([0, *map(len, documents)])
    return np.array([id for document in documents for id in document], dtype=np.uint32), offsets
