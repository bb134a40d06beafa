"""Parquet files: row groups, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_shards.batches import PART_BYTES, Batch
from data_shards.columns import (
    RowName,
    check_text_column,
    check_token_column,
    column_texts,
    field_type,
    leaf,
    neighbours,
)
from data_shards.errors import DataError
from data_shards.parquet_pages import page_sizes
from data_shards.rejects import Rejects
from data_shards.settings import is_remote
from data_shards.source_files import open_source, reading
from data_shards.sources import SourceFile

_BUFFER_BYTES = 1 << 20
# Rows may be far longer than the average, and a dictionary's far longer than their share of the file.
_MOST_ROWS = 32
# It is decompressed whole, and copied once.
_LARGEST_PAGE_BYTES = 128 << 20


def read(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[Batch]:
    """The documents of row groups [start, end)."""
    for array, where in arrays(file, start, end):
        yield from column_texts(array, where, file.field, rejects)


def arrays(file: SourceFile, start: int, end: int) -> Iterator[tuple[pa.Array, RowName]]:
    """The column of row groups [start, end), some rows at a time, with names for the rows.

    Raises DataError where the file is damaged, or has a page too large to be read in bounded memory.
    """
    with _opened(file) as parquet:
        for group in range(start, end):
            with _telling(file, f"row group {group} is damaged"):
                _refuse_huge_pages(file, parquet, group)
                row = 0
                for batch in parquet.iter_batches(
                    _rows_at_once(parquet, group, file.field), [group], [file.field], use_threads=False
                ):
                    yield leaf(batch, file.field), _row_name(file, group, row)
                    row += len(batch)


def record_batches(
    file: SourceFile, start: int, end: int, fields: Sequence[str]
) -> Iterator[tuple[pa.RecordBatch, RowName]]:
    """The columns of row groups [start, end) that hold `fields`, some rows at a time, with names for the rows.

    Raises DataError where the file is damaged, or has no such column.
    """
    with _opened(file) as parquet:
        for field in fields:
            field_type(file.path, field, parquet.schema_arrow)
        roots = list(dict.fromkeys(field.split(".")[0] for field in fields))
        for group in range(start, end):
            with _telling(file, f"row group {group} is damaged"):
                row = 0
                for batch in parquet.iter_batches(_MOST_ROWS, [group], roots, use_threads=False):
                    yield batch, _row_name(file, group, row)
                    row += len(batch)


def ranges(file: SourceFile, unit_bytes: int) -> list[tuple[int, int, int]]:
    """Ranges of row groups of about `unit_bytes` each, with their bytes of uncompressed data in the column."""
    with _opened(file) as parquet, _telling(file, "not a Parquet file"):
        if file.task:
            groups = range(parquet.num_row_groups)
            return neighbours([parquet.metadata.row_group(group).total_byte_size for group in groups], unit_bytes)
        sizes = [_column_bytes(parquet, group, file.field) for group in range(parquet.num_row_groups)]
    return neighbours(sizes, unit_bytes)


@contextmanager
def _opened(file: SourceFile) -> Iterator[pq.ParquetFile]:
    """The file, whose field is found to be there and of the right type."""
    with _telling(file, "not a Parquet file"):
        source = open_source(file.path) if is_remote(file.path) else file.path
        parquet = pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
    with parquet:
        if not file.task:
            check = check_token_column if file.format == "tokens" else check_text_column
            check(file.path, file.field, parquet.schema_arrow)
        yield parquet


@contextmanager
def _telling(file: SourceFile, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file.path}: {what} ({error}): get the file anew, or leave it out") from error


def _row_name(file: SourceFile, group: int, first: int) -> RowName:
    return lambda row: f"{file.path}: row group {group}, row {first + row + 1}"


def _rows_at_once(parquet: pq.ParquetFile, group: int, field: str) -> int:
    average = _column_bytes(parquet, group, field) // max(1, parquet.metadata.row_group(group).num_rows)
    return max(1, min(_MOST_ROWS, PART_BYTES // max(1, int(average))))


def _chunks(parquet: pq.ParquetFile, group: int, field: str) -> Iterator[Any]:
    """The column chunks of a field: one, or the one of its elements if it is a list."""
    row_group = parquet.metadata.row_group(group)
    for index in range(row_group.num_columns):
        column = row_group.column(index)
        if column.path_in_schema == field or column.path_in_schema.startswith(f"{field}."):
            yield column


def _column_bytes(parquet: pq.ParquetFile, group: int, field: str) -> int:
    return sum(max(0, int(column.total_uncompressed_size)) for column in _chunks(parquet, group, field))


def _refuse_huge_pages(file: SourceFile, parquet: pq.ParquetFile, group: int) -> None:
    for column in _chunks(parquet, group, file.field):
        if column.total_uncompressed_size <= _LARGEST_PAGE_BYTES:
            continue
        first = column.data_page_offset
        if column.has_dictionary_page and column.dictionary_page_offset:
            first = min(first, column.dictionary_page_offset)
        with open_source(file.path) as stream, reading(file.path):
            largest = max(page_sizes(stream, first, column.total_compressed_size), default=0)
        if largest > _LARGEST_PAGE_BYTES:
            raise DataError(
                f"{file.path}: row group {group} has a page of {largest} bytes, more than {_LARGEST_PAGE_BYTES}, which "
                "cannot be read in parts: write the file anew with smaller pages (pyarrow: write_batch_size=16)"
            )
