"""Megatron-LM's indexed datasets: ids in a .bin file, and where sequences and documents begin in an .idx beside it.

The index (Megatron-LM, megatron/core/datasets/indexed_dataset.py), little-endian: the magic MMIDIDX and two zero bytes,
uint64 version 1, a byte for the type of the ids, uint64 number of sequences, uint64 number of documents' borders; int32
lengths of the sequences, int64 places of the sequences in the .bin file in bytes, int64 borders of the documents in
sequences. Both files are read in stretches.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from data_shards.batches import Batch, Place, TokenBatch, Withdrawal
from data_shards.columns import LARGEST_ID, PART_TOKENS
from data_shards.errors import DataError
from data_shards.rejects import Rejects
from data_shards.source_files import open_source, reading
from data_shards.sources import SourceFile

_MAGIC = b"MMIDIDX\0\0"
_HEADER = struct.Struct("<9sQBQQ")
_VERSION = 1
_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_DOCUMENTS_AT_ONCE = 4096
# For the sizes of units: a token is about as many bytes of text.
_TEXT_BYTES_PER_TOKEN = 4
_NO_IDS = "not a document of ids"

Int64s = NDArray[np.int64]


def read(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[Batch]:
    """Documents [start, end), as they stand there, end marks included. Empty ones are left out and counted.

    Raises DataError where a file is damaged or the two do not fit together.
    """
    with _opened(file) as dataset:
        for first, documents in dataset.blocks(start, end):
            yield from _batches(dataset, first, documents, rejects)


def ranges(file: SourceFile, unit_bytes: int) -> list[tuple[int, int, int]]:
    """Ranges of documents of about `unit_bytes` of text each, with those bytes, guessed from the numbers of tokens."""
    found: list[tuple[int, int, int]] = []
    with _opened(file) as dataset:
        start = total = 0
        for first, documents in dataset.blocks(0, dataset.documents):
            sizes = documents.tokens * _TEXT_BYTES_PER_TOKEN
            for number, size in enumerate(sizes.tolist(), first):
                if number > start and total + size > unit_bytes:
                    found.append((start, number, total))
                    start, total = number, 0
                total += size
        return [*found, (start, dataset.documents, total)]


@dataclass(frozen=True)
class _Documents:
    """Some documents in a row."""

    borders: Int64s  # [documents + 1], in `lengths` and `places`
    lengths: Int64s  # [sequences], in ids
    places: Int64s  # [sequences], in bytes

    @property
    def tokens(self) -> Int64s:
        """Ids in each document."""
        ends: Int64s = np.concatenate([[0], np.cumsum(self.lengths)])[self.borders]
        sizes: Int64s = ends[1:] - ends[:-1]
        return sizes


class _Dataset:
    """The two files, whose header is found to be right."""

    def __init__(self, file: SourceFile, index: BinaryIO, ids: BinaryIO) -> None:
        self.path, self.ids_path = file.paths
        self._index = index
        self._ids = ids
        self._bytes = ids.seek(0, io.SEEK_END)
        header = index.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            raise self._damaged("it does not begin as a Megatron index does")
        _, version, code, self._sequences, borders = _HEADER.unpack(header)
        if version != _VERSION or code not in _TYPES:
            raise self._damaged(f"version {version} and type {code} are not known; version 1 and integers are")
        self._type = np.dtype(_TYPES[code])
        self.documents = borders - 1
        expected = _HEADER.size + self._sequences * 12 + borders * 8
        if borders < 1 or index.seek(0, io.SEEK_END) < expected:
            raise self._damaged(f"it is shorter than the {expected} bytes that its header tells of")

    def blocks(self, start: int, end: int) -> Iterator[tuple[int, _Documents]]:
        """Documents [start, end), some at a time, with the number of the first."""
        after_lengths = _HEADER.size + self._sequences * 4
        for first in range(start, end, _DOCUMENTS_AT_ONCE):
            last = min(first + _DOCUMENTS_AT_ONCE, end)
            borders = self._numbers(after_lengths + self._sequences * 8 + first * 8, last - first + 1, "<i8")
            low, high = int(borders[0]), int(borders[-1])
            if np.any(np.diff(borders) < 0) or low < 0 or high > self._sequences:
                raise self._damaged(f"the borders of documents {first} to {last} are out of order")
            lengths = self._numbers(_HEADER.size + low * 4, high - low, "<i4")
            places = self._numbers(after_lengths + low * 8, high - low, "<i8")
            if np.any(lengths < 0) or np.any(places < 0):
                raise self._damaged(f"a negative length or place in documents {first} to {last}")
            if np.any(places > self._bytes - lengths * self._type.itemsize):
                raise DataError(
                    f"{self.ids_path}: {self._bytes} bytes, fewer than {self.path} tells of: get both files anew"
                )
            yield first, _Documents(borders - low, lengths, places)

    def ids(self, documents: _Documents, low: int, high: int) -> Iterator[NDArray[Any]]:
        """Ids of sequences [low, high), joined, in stretches of at most PART_TOKENS."""
        size = self._type.itemsize
        for start, stop in _spans(documents.lengths[low:high]):
            lengths, places = documents.lengths[low:high][start:stop], documents.places[low:high][start:stop]
            if stop - start == 1:
                for first in range(0, int(lengths[0]), PART_TOKENS):
                    yield self._ids_at(int(places[0]) + first * size, min(PART_TOKENS, int(lengths[0]) - first))
            elif np.all(places[1:] == places[:-1] + lengths[:-1] * size):
                yield self._ids_at(int(places[0]), int(lengths.sum()))
            else:
                yield np.concatenate([self._ids_at(*where) for where in zip(places, lengths, strict=True)])

    def _ids_at(self, place: int, count: int) -> NDArray[Any]:
        return np.frombuffer(self._read(self._ids, self.ids_path, place, count * self._type.itemsize), self._type)

    def _numbers(self, place: int, count: int, kind: str) -> Int64s:
        size = np.dtype(kind).itemsize
        return np.frombuffer(self._read(self._index, self.path, place, count * size), kind).astype(np.int64)

    def _read(self, stream: BinaryIO, path: str, place: int, size: int) -> bytes:
        with reading(path):
            stream.seek(place)
            data = stream.read(size)
        if len(data) < size:
            raise DataError(f"{path}: {size - len(data)} bytes shorter than when it was opened: run prepare again")
        return data

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self.path}: not a whole Megatron index, {what}: get the file anew, or leave it out")


def _batches(dataset: _Dataset, first: int, documents: _Documents, rejects: Rejects) -> Iterator[Batch]:
    sizes = documents.tokens
    rejects.empty += int(np.count_nonzero(sizes == 0))
    for start, stop in _spans(sizes):
        low, high = int(documents.borders[start]), int(documents.borders[stop])
        where = _name(dataset.path, first + start)
        tokens = int(sizes[start:stop].sum())
        if tokens > PART_TOKENS:
            yield from _long_document(dataset.ids(documents, low, high), tokens, where, rejects)
        elif tokens:
            yield from _short_documents(
                np.concatenate([*dataset.ids(documents, low, high)]), sizes[start:stop], where, rejects
            )


def _spans(sizes: Int64s) -> Iterator[tuple[int, int]]:
    """[start, stop) of as many neighbours as together are at most PART_TOKENS, or of one that is larger."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        limit = (int(ends[start - 1]) if start else 0) + PART_TOKENS
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        yield start, stop
        start = stop


def _short_documents(ids: NDArray[Any], sizes: Int64s, where: Place, rejects: Rejects) -> Iterator[Batch]:
    bad = _bad(ids)
    kept = sizes > 0
    for place in np.flatnonzero(bad).tolist():
        row = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
        if kept[row]:
            rejects.reject(_NO_IDS, where(row), _shown(ids[place]))
        kept[row] = False
    rows = np.flatnonzero(kept)
    if len(rows):
        offsets = np.concatenate([[0], np.cumsum(sizes[rows])])
        yield TokenBatch(ids[np.repeat(kept, sizes)].astype(np.uint32), offsets, place=lambda i: where(int(rows[i])))


def _long_document(stretches: Iterator[NDArray[Any]], size: int, where: Place, rejects: Rejects) -> Iterator[Batch]:
    done = 0
    for ids in stretches:
        bad = _bad(ids)
        if bad.any():
            rejects.reject(_NO_IDS, where(0), _shown(ids[bad][0]))
            if done:
                yield Withdrawal()
            return
        done += len(ids)
        bounds = np.array([0, len(ids)], dtype=np.int64)
        yield TokenBatch(ids.astype(np.uint32), bounds, unfinished=done < size, place=where)


def _bad(ids: NDArray[Any]) -> NDArray[np.bool_]:
    return (ids < 0) | (ids > LARGEST_ID)


def _shown(number: Any) -> str:
    return f"id {int(number)}, which is not within 0 to {LARGEST_ID}"


def _name(path: str, first: int) -> Place:
    return lambda i: f"{path}: document {first + i + 1}"


@contextmanager
def _opened(file: SourceFile) -> Iterator[_Dataset]:
    index_path, ids_path = file.paths
    with open_source(index_path) as index, open_source(ids_path) as ids:
        yield _Dataset(file, index, ids)
