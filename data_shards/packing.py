"""How documents share a sequence: run on through their borders, or each by itself. Pure functions.

With `stream` (GPT-2) a sequence is T + 1 tokens of the stream as they come. With `documents` and `sentence_pairs` the
same T + 1 tokens are cut where a document begins, and each piece is trained as if it were alone: attention and
positions restart, and the label that is another document's first token is left out of the loss, since of two
documents run apart neither would predict it (Megatron-LM's reset of positions and masks, with the loss of end marks'
successors masked). The end mark closes its document: it is predicted, and predicts nothing. A sequence's border cuts
a document in two pieces as ever.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_shards.permutation import Int64Array


def separates_documents(packing: str) -> bool:
    """Whether a model must be told where documents begin: in any `data.packing` but stream."""
    return packing != "stream"


def piece_lengths(document_starts: Sequence[Int64Array], seq_len: int) -> Int64Array:
    """Lengths of the pieces of documents in rows of `seq_len` inputs, row after row, int64 [pieces].

    document_starts: for each row the places in 1..seq_len, rising, where a document begins; at seq_len begins only a
    label's. The pieces of each row add up to seq_len. There is at least one row.
    """
    first = np.zeros(1, dtype=np.int64)
    begins = [
        row * seq_len + part
        for row, starts in enumerate(document_starts)
        for part in (first, starts[: np.searchsorted(starts, seq_len)])
    ]
    ends = np.append(np.concatenate(begins), len(document_starts) * seq_len)
    lengths: Int64Array = ends[1:] - ends[:-1]
    return lengths


def label_mask(document_starts: Sequence[Int64Array], seq_len: int) -> NDArray[np.bool_]:
    """Which labels are trained on, bool [rows, seq_len]: all but those that are the first token of a document."""
    mask = np.ones((len(document_starts), seq_len), dtype=np.bool_)
    for row, starts in zip(mask, document_starts, strict=True):
        row[starts - 1] = False
    return mask
