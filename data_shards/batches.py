"""What a reader of a source hands to a worker: whole documents by the batch, and long ones in parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A longer document comes in parts of about this size, so that no document needs memory by its length.
PART_BYTES = 4 << 20
# Texts of one batch together, at most (a batch of one longer text apart).
BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Texts of documents, in order, none of them empty.

    With `unfinished` the last text is a part of a document which goes on with the first text of the next batch.
    """

    texts: list[str]
    unfinished: bool = False


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Documents that are tokens already, without end marks: document i is ids[offsets[i]:offsets[i + 1]].

    With `unfinished` the last one goes on with the first one of the next batch.
    """

    ids: NDArray[np.uint32]  # [tokens]
    offsets: NDArray[np.int64]  # [documents + 1]
    unfinished: bool = False


Batch = TextBatch | TokenBatch
