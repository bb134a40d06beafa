"""Documents that are ids already: a column of lists in Parquet or Arrow files, or a field of JSONL lines.

They are taken as they are. Whether they are within the vocabulary is for the worker to see, which has the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from data_shards import arrow_source, parquet_source
from data_shards.batches import TokenBatch
from data_shards.columns import LARGEST_ID, column_tokens
from data_shards.line_counter import LineCounter
from data_shards.regions import LongRecord, regions, split_lines
from data_shards.rejects import Rejects, shown
from data_shards.sources import SourceFile, read_chunks
from data_shards.utf8 import Where

# A line's numbers are held as Python's, which take up to ten times its bytes.
_LONGEST_LINE_BYTES = 16 << 20


def read(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[TokenBatch]:
    """The documents of row groups, record batches or bytes [start, end), whichever the file is made of."""
    if file.container == "jsonl":
        yield from _json_documents(file, start, end, rejects)
        return
    arrays = parquet_source.arrays if file.container == "parquet" else arrow_source.arrays
    for array, where in arrays(file, start, end):
        yield from column_tokens(array, where, file.field, rejects)


def _json_documents(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[TokenBatch]:
    counter = LineCounter(file, start)
    field = _IdsField(file.field)
    first = 0
    for region in regions(read_chunks(file.path, file.compression, start, end), (b"\n",)):
        lines = [_held(region)] if isinstance(region, LongRecord) else split_lines(region)
        found = [(number, field.ids(line, counter.at(number), rejects)) for number, line in enumerate(lines, first)]
        first += len(lines)
        documents = [(number, ids) for number, ids in found if ids is not None]
        if documents:
            yield _batch([ids for _, ids in documents], [number for number, _ in documents], counter)


def _batch(documents: list[NDArray[np.uint32]], numbers: list[int], counter: LineCounter) -> TokenBatch:
    offsets = np.cumsum([0, *map(len, documents)], dtype=np.int64)
    return TokenBatch(np.concatenate(documents), offsets, place=lambda i: counter.where(numbers[i]))


def _held(record: LongRecord) -> bytes | None:
    """A long line, which is read to its end; None if it is too long to be held."""
    held: bytearray | None = bytearray()
    for piece in record:
        if held is not None:
            held += piece
            held = held if len(held) <= _LONGEST_LINE_BYTES else None
    return None if held is None else bytes(held)


class _IdsField:
    """Decodes lines to the list of ids in a field, a.b of nested objects."""

    def __init__(self, dotted: str) -> None:
        kind: Any = list[int]
        for name in reversed(dotted.split(".")):
            kind = msgspec.defstruct("Record", [("value", kind)], rename={"value": name}, gc=False)
        self._name = dotted
        self._decoder = msgspec.json.Decoder(kind)
        self._value = attrgetter(".".join(["value"] * (dotted.count(".") + 1)))

    def ids(self, line: bytes | None, where: Where, rejects: Rejects) -> NDArray[np.uint32] | None:
        """The ids of one line; None if it is blank or has none, which is counted as empty, or bad."""
        if line is None:
            rejects.reject("line too long", where(0), f"more than {_LONGEST_LINE_BYTES} bytes")
            return None
        if not line.strip():
            rejects.empty += 1
            return None
        reason = f"field {self._name} is no list of ids"
        try:
            numbers = self._value(self._decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            rejects.reject(reason, where(0), f"{error}; the line is {shown(line[:200].decode(errors='replace'))}")
            return None
        wrong = next((number for number in numbers if not 0 <= number <= LARGEST_ID), None)
        if wrong is not None:
            rejects.reject(reason, where(0), f"id {wrong}, which is not within 0 to {LARGEST_ID}")
            return None
        rejects.empty += not numbers
        return np.array(numbers, dtype=np.uint32) if numbers else None
