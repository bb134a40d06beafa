"""What a reader of a source hands to a worker: whole documents by the batch, and long ones in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A longer document comes in parts of at most this size, so that no document needs memory by its length.
PART_BYTES = 1 << 20
# Characters of one batch together, at most (a batch of one longer text apart).
BATCH_BYTES = 1 << 20

Place = Callable[[int], str]
"""Names the place (file and line, or the like) of the i-th document of a batch."""


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Texts of documents, in order, none of them empty.

    With `unfinished` the last text is a part of a document which goes on with the first text of the next batch.
    """

    texts: list[str]
    unfinished: bool = False
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Documents that are tokens already: document i, at most with an end mark, is ids[offsets[i]:offsets[i + 1]].

    With `unfinished` the last one goes on with the first one of the next batch.
    """

    ids: NDArray[np.uint32]  # [tokens]
    offsets: NDArray[np.int64]  # [documents + 1]
    unfinished: bool = False
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The document that the batch before left unfinished turned out bad: no part of it is kept."""


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records of a task: the values of its fields, as JSON's types, in the order of `task_fields`."""

    rows: list[tuple[Any, ...]]
    place: Place


Batch = TextBatch | TokenBatch | Withdrawal | RecordBatch
Part = tuple[str, bool] | Withdrawal
"""A text and whether its document goes on with the next part."""


def text_batches(parts: Iterable[Part], place: Place | None = None) -> Iterator[Batch]:
    """Documents, or parts of them, collected into batches; the empty ones must be left out before.

    `place` names the place of the i-th document of `parts`.
    """
    held: list[str] = []
    size = first = documents = 0
    for part in parts:
        if isinstance(part, Withdrawal):
            yield part
            documents += 1
            first = documents
            continue
        text, goes_on = part
        held.append(text)
        size += len(text)
        documents += not goes_on
        if goes_on or size >= BATCH_BYTES:
            yield TextBatch(held, goes_on, _shifted(place, first))
            held, size, first = [], 0, documents
    if held:
        yield TextBatch(held, place=_shifted(place, first))


def joined(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same documents in fewer batches: small batches of texts are put together. Places are lost."""
    held: list[str] = []
    size = 0
    for batch in batches:
        if isinstance(batch, TextBatch):
            held += batch.texts
            size += sum(map(len, batch.texts))
            if batch.unfinished or size >= BATCH_BYTES:
                yield TextBatch(held, batch.unfinished)
                held, size = [], 0
            continue
        if held:
            yield TextBatch(held)
            held, size = [], 0
        yield batch
    if held:
        yield TextBatch(held)


def _shifted(place: Place | None, first: int) -> Place | None:
    return None if place is None else lambda i: place(first + i)
