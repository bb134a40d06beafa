"""Where a text is cut for an encoder and a decoder: at its prompt's end, or at a point that is drawn. Pure functions.

A draw depends on (seed, position in the order, place in the row) alone: it is the same on any number of ranks and after
a resume, and another in each epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_shards.packing import label_mask, piece_lengths
from data_shards.permutation import Int64Array, keyed_hash, root_key


def decoder_starts(
    positions: Int64Array,
    seed: int,
    shape: tuple[int, int],
    document_starts: Sequence[Int64Array] | None = None,
    loss_mask: NDArray[np.bool_] | None = None,
) -> Int64Array:
    """For each of T inputs in R rows, the place in its row of the decoder's first input of its document, int64 [R, T].

    Up to and with it the document is the encoder's; the labels from it on are the decoder's. positions: int64 [at most
    R] of the rows that do not only pad; shape: (R, T); document_starts: as a batch's, or None where each row is one
    text; loss_mask: which tokens count as labels, bool [R, T+1]: then the first label that counts is the decoder's
    first, and a document without any is of no account. Else the place is drawn evenly, from those that leave the
    encoder a token, and the decoder a label if the document has two.
    """
    rows, seq_len = shape
    none = [np.empty(0, np.int64)] * rows
    lengths = piece_lengths(none if document_starts is None else document_starts, seq_len)
    firsts = np.cumsum(lengths) - lengths
    in_row = firsts % seq_len
    if loss_mask is None:
        at = np.zeros(rows, np.int64)
        at[: len(positions)] = positions
        drawn = keyed_hash(root_key("cut", seed), at[firsts // seq_len], in_row)
        starts = in_row + (drawn % np.maximum(lengths - 1, 1).astype(np.uint64)).astype(np.int64)
    else:
        counted = (
            loss_mask[:, 1:] if document_starts is None else loss_mask[:, 1:] & label_mask(document_starts, seq_len)
        )
        places = np.where(counted, np.arange(seq_len), seq_len).ravel()
        found = np.minimum.reduceat(places, firsts)
        starts = np.where(found < seq_len, found, in_row)
    return np.repeat(starts, lengths).reshape(shape)


def decoder_labels(starts: Int64Array) -> NDArray[np.bool_]:
    """Which labels are the decoder's, bool [R, T], of `decoder_starts`."""
    mine: NDArray[np.bool_] = np.arange(starts.shape[1]) >= starts
    return mine
