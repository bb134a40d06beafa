"""Columns of texts or of ids in Arrow's memory, for Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_shards.batches import BATCH_BYTES, PART_BYTES, Batch, Part, TextBatch, TokenBatch, text_batches
from data_shards.errors import DataError
from data_shards.long_text import long_document
from data_shards.rejects import Rejects

RowName = Callable[[int], str]
"""Names the place of a row, counted from 0 within an array."""
PART_TOKENS = PART_BYTES // 4
_MOST_ROWS = 1 << 16
LARGEST_ID = (1 << 32) - 1


def check_text_column(path: str, field: str, schema: pa.Schema) -> None:
    """Raise DataError unless the schema has the field and it holds strings."""
    node = field_type(path, field, schema)
    kind = node.value_type if pa.types.is_dictionary(node) else node
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        advice = "give format: tokens if they are ids, or " if _is_list(kind) else ""
        raise DataError(f"{path}: column {field} holds {node}, not strings: {advice}set the source's field")


def check_token_column(path: str, field: str, schema: pa.Schema) -> None:
    """Raise DataError unless the schema has the field and it holds lists of integers."""
    node = field_type(path, field, schema)
    if not (_is_list(node) and pa.types.is_integer(node.value_type)):
        raise DataError(f"{path}: column {field} holds {node}, not lists of integers: set the source's field")


def leaf(batch: pa.RecordBatch, dotted: str) -> pa.Array:
    """The column of a batch that a.b names; null where anything on the way to it is."""
    first, *rest = dotted.split(".")
    array = batch.column(first)
    for name in rest:
        array = pc.struct_field(array, name)
    return array


def blocks(array: pa.Array) -> Iterator[tuple[int, pa.Array]]:
    """An array of any size in slices of at most BATCH_BYTES (or one row), each with its first row.

    Raises ValueError where the array's values do not lie within its data, which Arrow does not check.
    """
    for first in range(0, len(array), _MOST_ROWS):
        rows = array.slice(first, _MOST_ROWS)
        _check_bounds(rows)
        ends = np.cumsum(_row_bytes(rows))
        start = 0
        while start < len(rows):
            limit = (ends[start - 1] if start else 0) + BATCH_BYTES
            end = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
            yield first + start, rows.slice(start, end - start)
            start = end


def column_texts(
    array: pa.Array, where: RowName, field: str, rejects: Rejects, used: Callable[[int], None] = lambda _: None
) -> Iterator[Batch]:
    """The texts of a column of strings; those that are none are rejected, empty ones counted.

    `used` is told of bytes of the array that are not needed any more.
    """
    spans = _text_spans(array)
    texts = _all_texts(spans)
    if texts is None:
        rows: list[int] = []
        parts = _texts_one_by_one(spans, rows, where, field, rejects, used)
        yield from text_batches(parts, lambda i: where(rows[i]))
        return
    kept = [row for row, text in enumerate(texts) if text]
    rejects.empty += len(texts) - len(kept)
    if kept:
        used(int(sum(spans.ends - spans.starts)))
        yield TextBatch([texts[row] for row in kept], place=lambda i: where(kept[i]))


def column_tokens(array: pa.Array, where: RowName, field: str, rejects: Rejects) -> Iterator[TokenBatch]:
    """The documents of a column of lists of ids; those that are none are rejected, empty ones counted."""
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.large_list(array.type.value_type))
    valid = _validity(array)
    offsets = np.asarray(array.offsets).astype(np.int64)  # [rows + 1]
    if valid is None and offsets[-1] - offsets[0] <= PART_TOKENS:
        ids = _ids(array.values.slice(offsets[0], offsets[-1] - offsets[0]))
        if not isinstance(ids, str):
            rows = np.flatnonzero(np.diff(offsets))
            rejects.empty += len(array) - len(rows)
            if len(rows):
                ends = offsets[rows + 1] - offsets[0]
                yield TokenBatch(ids, np.concatenate([[0], ends]), place=lambda i: where(int(rows[i])))
            return
    for row in range(len(array)):
        values = array.values.slice(offsets[row], offsets[row + 1] - offsets[row])
        if valid is not None and not valid[row]:
            rejects.reject(f"field {field} is no list of ids", where(row), "null")
        else:
            yield from _token_document(values, _line_name(where, row), field, rejects)


def token_parts(read: Callable[[int, int], NDArray[np.uint32]], size: int, where: RowName) -> Iterator[TokenBatch]:
    """A document of `size` ids in batches of at most PART_TOKENS; `read(start, end)` gives its ids of that range."""
    for start in range(0, size, PART_TOKENS):
        end = min(start + PART_TOKENS, size)
        bounds = np.array([0, end - start], dtype=np.int64)
        yield TokenBatch(read(start, end), bounds, unfinished=end < size, place=where)


@dataclass(frozen=True)
class _Spans:
    """Where the values of a column of strings lie."""

    data: memoryview
    starts: NDArray[np.int64]  # [rows]
    ends: NDArray[np.int64]  # [rows]
    valid: NDArray[np.bool_] | None  # [rows]; None if all are


def _texts_one_by_one(
    spans: _Spans, rows: list[int], where: RowName, field: str, rejects: Rejects, used: Callable[[int], None]
) -> Iterator[Part]:
    """The good texts, in parts where they are long; their rows are added to `rows`."""
    for row, (start, end) in enumerate(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True)):
        if spans.valid is not None and not spans.valid[row]:
            rejects.reject(f"field {field} is no string", where(row), "null")
        elif start == end:
            rejects.empty += 1
        else:
            name = _line_name(where, row)
            for place, part in enumerate(long_document(_pieces(spans.data[start:end], used), name, rejects)):
                if place == 0:
                    rows.append(row)
                yield part


def _line_name(where: RowName, row: int) -> Callable[[int], str]:
    return lambda _: where(row)


def _pieces(data: memoryview, used: Callable[[int], None]) -> Iterator[bytes]:
    for start in range(0, len(data), PART_BYTES):
        yield bytes(data[start : start + PART_BYTES])
        used(PART_BYTES)


def _token_document(values: pa.Array, where: RowName, field: str, rejects: Rejects) -> Iterator[TokenBatch]:
    if not len(values):
        rejects.empty += 1
        return
    for start in range(0, len(values), PART_TOKENS):  # to the end first, since what has begun cannot be rejected
        found = _ids(values.slice(start, PART_TOKENS))
        if isinstance(found, str):
            rejects.reject(f"field {field} is no list of ids", where(0), found)
            return
    yield from token_parts(
        lambda start, end: np.asarray(values.slice(start, end - start)).astype(np.uint32), len(values), where
    )


def _ids(values: pa.Array) -> NDArray[np.uint32] | str:
    """Ids as uint32, or what is wrong with them."""
    if values.null_count:
        return "a null among the ids"
    numbers = np.asarray(values)
    if numbers.size and (numbers.min() < 0 or numbers.max() > LARGEST_ID):
        return f"id {int(numbers.min() if numbers.min() < 0 else numbers.max())}, which is not within 0 to {LARGEST_ID}"
    return numbers.astype(np.uint32)


def _text_spans(array: pa.Array) -> _Spans:
    if pa.types.is_dictionary(array.type):
        words = _text_spans(array.dictionary)
        if not len(array.dictionary):  # and so all are null
            none = np.zeros(len(array), np.int64)
            return _Spans(memoryview(b""), none, none, none.astype(bool))
        indices = np.asarray(array.indices.fill_null(0)).astype(np.int64)
        valid = _validity(array.indices)
        if words.valid is not None:
            valid = words.valid[indices] if valid is None else valid & words.valid[indices]
        return _Spans(words.data, words.starts[indices], words.ends[indices], valid)
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    width = np.int64 if pa.types.is_large_string(array.type) else np.int32
    bounds = np.zeros(1, np.int64) if offsets is None else np.frombuffer(offsets, width).astype(np.int64, copy=False)
    bounds = bounds[array.offset : array.offset + len(array) + 1]
    return _Spans(memoryview(data or b""), bounds[:-1], bounds[1:], _validity(array))


def _all_texts(spans: _Spans) -> list[str] | None:
    """All values, or None if one is null, long, or no UTF-8."""
    sizes = spans.ends - spans.starts
    if spans.valid is not None or (len(sizes) and int(sizes.max()) > PART_BYTES):
        return None
    data = spans.data
    try:
        return [str(data[a:b], "utf-8") for a, b in zip(spans.starts.tolist(), spans.ends.tolist(), strict=True)]
    except UnicodeDecodeError:
        return None


def _check_bounds(array: pa.Array) -> None:
    if pa.types.is_dictionary(array.type):
        _check_bounds(array.dictionary)
        indices = np.asarray(array.indices.fill_null(0))
        if len(indices) and not (indices.min() >= 0 and indices.max() < max(1, len(array.dictionary))):
            raise ValueError(f"words {indices.min()} to {indices.max()} of a dictionary of {len(array.dictionary)}")
    elif pa.types.is_fixed_size_list(array.type) or pa.types.is_string_view(array.type):
        array.validate(full=True)
    else:
        if _is_list(array.type):
            offsets, size = np.asarray(array.offsets), len(array.values)
        else:
            spans = _text_spans(array)
            offsets, size = np.append(spans.starts, spans.ends[-1:]), len(spans.data)
        if len(offsets) and not (offsets[0] >= 0 and offsets[-1] <= size and np.all(offsets[1:] >= offsets[:-1])):
            raise ValueError(f"values from {offsets[0]} to {offsets[-1]} of {size}, or not in order")


def _row_bytes(array: pa.Array) -> NDArray[np.int64]:
    """Bytes of each row's value."""
    if pa.types.is_fixed_size_list(array.type):
        return np.full(len(array), int(array.type.list_size * array.type.value_type.bit_width) // 8)
    if _is_list(array.type):
        offsets = np.asarray(array.offsets).astype(np.int64)
        return (offsets[1:] - offsets[:-1]) * (int(array.type.value_type.bit_width) // 8)
    spans = _text_spans(array)
    return spans.ends - spans.starts


def _validity(array: pa.Array) -> NDArray[np.bool_] | None:
    if not array.null_count:
        return None
    valid: NDArray[np.bool_] = np.asarray(array.is_valid().to_numpy(zero_copy_only=False))
    return valid


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def field_type(path: str, field: str, schema: pa.Schema) -> pa.DataType:
    """The type of the column that a.b names. Raises: DataError where there is none, or several are called so."""
    names = field.split(".")
    node: Any = schema
    for depth, name in enumerate(names):
        children = [node.field(i).name for i in range(_field_count(node))]
        if name not in children:
            raise DataError(
                f"{path}: no column {'.'.join(names[: depth + 1])}; there is {', '.join(children) or 'none'}: "
                "set the source's field"
            )
        if children.count(name) > 1:
            raise DataError(
                f"{path}: {children.count(name)} columns are called {'.'.join(names[: depth + 1])}, and one is needed: "
                "write the file anew with a name for each"
            )
        node = node.field(children.index(name)).type
    return node


def _field_count(node: Any) -> int:
    if isinstance(node, pa.Schema):
        return len(node)
    return node.num_fields if pa.types.is_struct(node) else 0


def neighbours(sizes: Sequence[int], unit_bytes: int) -> list[tuple[int, int, int]]:
    """Things of these sizes put together in order, up to `unit_bytes` or one alone: (first, end, their size)."""
    found = []
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > unit_bytes:
            found.append((start, index, total))
            start, total = index, 0
        total += size
    return [*found, (start, len(sizes), total)]
