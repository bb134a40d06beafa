"""Arrow files, as a stream of record batches (Hugging Face datasets) or in the file format, read some rows at a time.

A local file is mapped, so that a record batch of any size costs no memory; of a remote one each batch is held.
"""

from __future__ import annotations

import io
import mmap
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import ipc

from data_shards.batches import Batch
from data_shards.columns import (
    RowName,
    blocks,
    check_text_column,
    check_token_column,
    column_texts,
    field_type,
    leaf,
    neighbours,
)
from data_shards.errors import DataError
from data_shards.rejects import Rejects
from data_shards.settings import is_remote
from data_shards.source_files import open_source, reading
from data_shards.sources import SourceFile

ALL_BATCHES = sys.maxsize
# The file format is this magic, padded, the same messages as in a stream, and an index that is not needed.
_MAGIC = b"ARROW1"
_PADDED_MAGIC_BYTES = 8
_END_MARK = b"\xff\xff\xff\xff\0\0\0\0"
# A record batch that is not mapped is held whole.
_LARGEST_BATCH_BYTES = 128 << 20
_RELEASED_BYTES = 64 << 20
_ROWS_AT_ONCE = 1024


def read(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[Batch]:
    """The documents of record batches [start, end)."""
    with _opened(file) as opened:
        for array, where in _arrays(file, opened, start, end):
            yield from column_texts(array, where, file.field, rejects, opened.release)


def arrays(file: SourceFile, start: int, end: int) -> Iterator[tuple[pa.Array, RowName]]:
    """The column of record batches [start, end), some rows at a time, with names for the rows.

    Raises DataError where the file is damaged or cut off.
    """
    with _opened(file) as opened:
        for array, where in _arrays(file, opened, start, end):
            yield array, where
            opened.release(array.nbytes)


def record_batches(
    file: SourceFile, start: int, end: int, fields: Sequence[str]
) -> Iterator[tuple[pa.RecordBatch, RowName]]:
    """The columns of record batches [start, end) that hold `fields`, some rows at a time, with names for the rows.

    Raises DataError where the file is damaged or cut off, or has no such column.
    """
    with _opened(file) as opened, _telling(file):
        data = opened.data()
        with ipc.open_stream(data) as batches:
            for field in fields:
                field_type(file.path, field, batches.schema)
            roots = list(dict.fromkeys(field.split(".")[0] for field in fields))
            for number, batch in enumerate(islice(batches, start, end), start):
                for row in range(0, len(batch), _ROWS_AT_ONCE):
                    yield batch.select(roots).slice(row, _ROWS_AT_ONCE), _row_name(file, number, row)
        if end == ALL_BATCHES:
            _check_end(file, data)


def ranges(file: SourceFile, unit_bytes: int) -> list[tuple[int, int, int]]:
    """Ranges of record batches of about `unit_bytes` each, with their bytes.

    A remote file is one range, since its batches would have to be fetched to be counted.
    """
    with _opened(file) as opened:
        if file.task or not opened.mapped:
            return [(0, ALL_BATCHES, opened.size)]
        with _telling(file):
            _only_field(file, opened)
            sizes = _batch_sizes(file, opened)
            _refuse_large_compressed(file, opened, sizes)
    return neighbours(sizes, unit_bytes)


class _Opened:
    """An open Arrow file, mapped if it is local."""

    def __init__(self, stream: BinaryIO, path: str) -> None:
        self._stream = stream
        self._path = path
        self._touched = 0
        self.size = stream.seek(0, io.SEEK_END)
        if not self.size:
            raise DataError(f"{path}: an empty file is no Arrow file: get the file anew, or leave it out")
        stream.seek(0)
        self._first = _PADDED_MAGIC_BYTES if stream.read(_PADDED_MAGIC_BYTES).startswith(_MAGIC) else 0
        # Not closed by hand: Arrow's arrays may still point into it.
        self._mapping = None if is_remote(path) else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    @property
    def mapped(self) -> bool:
        """Whether the file is mapped."""
        return self._mapping is not None

    def data(self) -> Any:
        """Arrow's view of the bytes from the first message on."""
        if self._mapping is not None:
            return pa.BufferReader(pa.py_buffer(self._mapping).slice(self._first))
        self._stream.seek(self._first)
        return pa.PythonFile(_Bounded(self._stream, self._path), "r")

    def holds(self, array: pa.Array) -> bool:
        """Whether an array's data lie in the mapped file, and not in memory."""
        mapped = pa.py_buffer(self._mapping)
        addresses = [buffer.address for buffer in array.buffers() if buffer is not None and buffer.size]
        return all(mapped.address <= address < mapped.address + mapped.size for address in addresses)

    def release(self, touched: int) -> None:
        """Take note of bytes that were read; from time to time the mapped pages are given back."""
        self._touched += touched
        if self._mapping is not None and self._touched >= _RELEASED_BYTES:
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._touched = 0


class _Bounded(io.RawIOBase):
    """Refuses to read at once what would be a record batch too large to be held."""

    def __init__(self, stream: BinaryIO, path: str) -> None:
        self._stream = stream
        self._path = path

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        if size > _LARGEST_BATCH_BYTES:
            raise DataError(_too_large(self._path, size))
        return self._stream.read(size)


@contextmanager
def _opened(file: SourceFile) -> Iterator[_Opened]:
    with open_source(file.path) as stream:
        with reading(file.path):
            opened = _Opened(stream, file.path)
        yield opened


def _arrays(file: SourceFile, opened: _Opened, start: int, end: int) -> Iterator[tuple[pa.Array, RowName]]:
    with _telling(file):
        options = _only_field(file, opened)
        data = opened.data()
        with ipc.open_stream(data, options=options) as batches:
            for number, batch in enumerate(islice(batches, start, end), start):
                for row, array in blocks(leaf(batch, file.field)):
                    yield array, _row_name(file, number, row)
        if end == ALL_BATCHES:
            _check_end(file, data)


def _only_field(file: SourceFile, opened: _Opened) -> ipc.IpcReadOptions:
    """Options that leave the other columns alone, once the field is found to be there and of the right type."""
    with ipc.open_stream(opened.data()) as batches:
        schema = batches.schema
    check = check_token_column if file.format == "tokens" else check_text_column
    check(file.path, file.field, schema)
    return ipc.IpcReadOptions(included_fields=[schema.get_field_index(file.field.split(".")[0])])


def _batch_sizes(file: SourceFile, opened: _Opened) -> list[int]:
    data = opened.data()
    reader = ipc.MessageReader.open_stream(data)
    sizes = []
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            break
        if message.type == "record batch":
            sizes.append(message.body.size)
    _check_end(file, data)
    return sizes


def _check_end(file: SourceFile, data: Any) -> None:
    """Without its end mark a stream may have been cut between two batches, which Arrow takes for its end."""
    end = data.tell()
    data.seek(max(0, end - len(_END_MARK)))
    if data.read(len(_END_MARK)) != _END_MARK:
        raise DataError(f"{file.path}: cut off, its end mark is missing: get the file anew, or leave it out")


def _refuse_large_compressed(file: SourceFile, opened: _Opened, sizes: list[int]) -> None:
    if max(sizes, default=0) <= _LARGEST_BATCH_BYTES:
        return
    with ipc.open_stream(opened.data(), options=_only_field(file, opened)) as batches:
        first = next(iter(batches))
    if not opened.holds(leaf(first, file.field)):
        raise DataError(_too_large(file.path, max(sizes)))


def _row_name(file: SourceFile, batch: int, first: int) -> RowName:
    return lambda row: f"{file.path}: record batch {batch}, row {first + row + 1}"


def _too_large(path: str, size: int) -> str:
    return (
        f"{path}: a record batch of {size} bytes, more than {_LARGEST_BATCH_BYTES}, cannot be held: write the file "
        "anew with smaller ones, or as a local file without compression"
    )


@contextmanager
def _telling(file: SourceFile) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file.path}: damaged Arrow data ({error}): get the file anew, or leave it out") from error
