"""How much each label weighs in a step's loss. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_shards.packing import piece_lengths
from data_shards.permutation import Int64Array
from trainer.settings import Normalize


def loss_weights(
    counted: NDArray[np.bool_], document_starts: Sequence[Int64Array] | None, normalize: Normalize
) -> tuple[NDArray[np.float32], int]:
    """Weight of each label, float32 [R, T], and the number of equal terms whose mean over all ranks is the loss.

    counted: which labels count, bool [R, T]; document_starts: as `StepBatch` has them, None where each row is one
    fragment. tokens: each label is a term, of weight 1. fragments: each piece of a document in a row is one, in which
    its T labels that count weigh 1 / T, so that a short text has as much to say as a long one; a piece without such
    labels is no term.
    """
    if normalize == "tokens":
        return counted.astype(np.float32), int(counted.sum())
    rows, seq_len = counted.shape
    lengths = np.full(rows, seq_len) if document_starts is None else piece_lengths(document_starts, seq_len)
    labels = np.add.reduceat(counted.ravel(), np.cumsum(lengths) - lengths, dtype=np.int64)
    weights = np.repeat(1.0 / np.maximum(labels, 1), lengths).reshape(rows, seq_len) * counted
    return weights.astype(np.float32), int(np.count_nonzero(labels))
