"""Records of a task: several fields of each line of a JSONL file, or of each row of a Parquet or Arrow file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from data_shards import arrow_source, parquet_source
from data_shards.batches import RecordBatch
from data_shards.json_lines import field_of, parsed_line
from data_shards.line_counter import LineCounter
from data_shards.regions import LongRecord, count_lines, regions, split_lines
from data_shards.rejects import Rejects
from data_shards.sources import SourceFile, read_chunks
from data_shards.task_settings import task_fields
from data_shards.utf8 import Where


def read(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[RecordBatch]:
    """The records of a stretch of a file: [start, end) in bytes, row groups or record batches.

    A line that is no JSON object, or has not all fields, is rejected; blank ones are counted as empty. A field that is
    null in a row comes as None.
    """
    fields = task_fields(file.task)
    if file.format == "jsonl":
        yield from _lines(file, start, end, fields, rejects)
        return
    source = parquet_source if file.format == "parquet" else arrow_source
    roots = list(dict.fromkeys(field.split(".")[0] for field in fields))
    for batch, where in source.record_batches(file, start, end, fields):
        columns = {root: batch.column(root).to_pylist() for root in roots}
        rows = [tuple(_value(columns, field, row) for field in fields) for row in range(len(batch))]
        yield RecordBatch(rows, where)


def _value(columns: dict[str, list[Any]], field: str, row: int) -> Any:
    root, *names = field.split(".")
    value = columns[root][row]
    for name in names:
        value = None if value is None else value[name]
    return value


def _lines(file: SourceFile, start: int, end: int, fields: Sequence[str], rejects: Rejects) -> Iterator[RecordBatch]:
    lines = LineCounter(file, start)
    first = 0
    for region in regions(read_chunks(file.path, file.compression, start, end), (b"\n",)):
        data = b"".join(region) if isinstance(region, LongRecord) else region
        rows, numbers = [], []
        for number, line in enumerate(split_lines(data), first):
            row = _row(line, fields, lines.at(number), rejects)
            if row is not None:
                rows.append(row)
                numbers.append(number)
        yield RecordBatch(rows, lambda i, numbers=numbers: lines.where(numbers[i]))  # type: ignore[misc]
        first += region.lines if isinstance(region, LongRecord) else count_lines(data)


def _row(line: bytes, fields: Sequence[str], where: Where, rejects: Rejects) -> tuple[Any, ...] | None:
    """The values of the fields in one line; None if it is blank, which is counted as empty, or bad."""
    parsed = parsed_line(line, where, rejects)
    if parsed is None:
        return None
    row = []
    for field in fields:
        value, problem = field_of(parsed[0], field)
        if problem is not None:
            rejects.reject(problem[0], where(0), problem[1])
            return None
        row.append(value)
    return tuple(row)
