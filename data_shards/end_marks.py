"""End marks that other tools put after documents of ids, where Headrace puts its own."""

from __future__ import annotations

import numpy as np

from data_shards.batches import TokenBatch


def without_last_end_marks(batch: TokenBatch, eot_id: int) -> TokenBatch:
    """The documents without the end mark, if that is their last id; a document that is nothing else comes out empty.

    What goes on with the next batch is not at its end, and stays as it is.
    """
    ids, offsets = batch.ids, batch.offsets
    rows = np.flatnonzero(offsets[1:] > offsets[:-1])
    if batch.unfinished:
        rows = rows[rows < len(offsets) - 2]
    rows = rows[ids[offsets[rows + 1] - 1] == eot_id]
    if not len(rows):
        return batch
    sizes = np.diff(offsets)
    sizes[rows] -= 1
    bounds = np.zeros(len(offsets), dtype=np.int64)
    np.cumsum(sizes, out=bounds[1:])
    return TokenBatch(np.delete(ids, offsets[rows + 1] - 1), bounds, batch.unfinished, batch.place)
