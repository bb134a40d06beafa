"""Documents of JSONL files: one string field of one object a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from data_shards.batches import Batch, text_batches
from data_shards.json_stream import json_document
from data_shards.line_counter import LineCounter
from data_shards.long_text import document_batches
from data_shards.regions import LongRecord, count_lines, regions, split_lines
from data_shards.rejects import Rejects, shown
from data_shards.sources import SourceFile, read_chunks
from data_shards.utf8 import Where, decode

_OPENING, _CLOSING, _RETURN = b"{}\r"


def read(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[Batch]:
    """The field's strings in the lines of bytes [start, end) of a file. Empty ones are left out and counted."""
    lines = LineCounter(file, start)
    fast = FieldDecoder(file.field)
    line = 0
    for region in regions(read_chunks(file.path, file.compression, start, end), (b"\n",)):
        if isinstance(region, LongRecord):
            yield from text_batches(json_document(region, file.field, lines.at(line), rejects), lines.at(line))
            line += region.lines
        elif (values := fast.values(region)) is not None:
            numbers = [number for number, value in enumerate(values) if value] if "" in values else range(len(values))
            rejects.empty += len(values) - len(numbers)
            texts = values if len(numbers) == len(values) else [values[number] for number in numbers]
            yield from document_batches(texts, _placing(lines, line, numbers), rejects)
            line += len(values)
        else:
            yield from _line_by_line(region, file.field, lines, line, rejects)
            line += count_lines(region)


class FieldDecoder:
    """Decodes all lines of a region at once, where that surely gives what `field_value` gives line by line."""

    def __init__(self, dotted: str) -> None:
        kind: Any = str
        for name in reversed(dotted.split(".")):
            kind = msgspec.defstruct("Record", [("value", kind)], rename={"value": name}, gc=False)
        self._decoder = msgspec.json.Decoder(kind)
        self._value: Callable[[Any], str] = attrgetter(".".join(["value"] * (dotted.count(".") + 1)))

    def values(self, data: bytes) -> list[str] | None:
        """The value of each line; None if the lines are to be looked at one by one."""
        lines = _lines_of_one_object(data)
        if lines is None or not _is_utf8(data):  # msgspec does not look into what it skips
            return None
        try:
            records = self._decoder.decode_lines(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        # As every line end stands between two objects, and there are as many, each line holds one.
        return list(map(self._value, records)) if len(records) == lines else None


def field_value(line: bytes, dotted: str, where: Where, rejects: Rejects) -> str | None:
    """The field's string in one line; None if it is blank, which is counted as empty, or bad."""
    parsed = parsed_line(line, where, rejects)
    if parsed is None:
        return None
    value, problem = field_of(parsed[0], dotted)
    if problem is None and not isinstance(value, str):
        problem = (f"field {dotted} is no string", f"{type(value).__name__} {shown(json.dumps(value))}")
    if problem is None and not _is_unicode(value):
        problem = (f"field {dotted} holds half a surrogate pair", shown(ascii(value)))
    if problem is not None:
        rejects.reject(problem[0], where(0), problem[1])
        return None
    return str(value)


def _line_by_line(data: bytes, field: str, lines: LineCounter, line: int, rejects: Rejects) -> Iterator[Batch]:
    texts, numbers = [], []
    for number, record in enumerate(split_lines(data)):
        value = field_value(record, field, lines.at(line + number), rejects)
        if value:
            texts.append(value)
            numbers.append(number)
        rejects.empty += value == ""
    yield from document_batches(texts, _placing(lines, line, numbers), rejects)


def _placing(lines: LineCounter, line: int, numbers: range | list[int]) -> Callable[[int], str]:
    return lambda i: lines.where(line + numbers[i])


def _lines_of_one_object(data: bytes) -> int | None:
    """The number of lines, if each line end but the last stands between a closing and an opening brace."""
    if not data.startswith(b"{"):
        return None
    are_lines_long = data.count(b"\n", 0, 1 << 14) < 32
    return _counted_by_search(data) if are_lines_long else _counted_by_array(data)


def _counted_by_search(data: bytes) -> int | None:
    lines = 1
    end = data.find(b"\n")
    while 0 <= end < len(data) - 1:
        before = data[end - 2] if data[end - 1] == _RETURN else data[end - 1]
        if before != _CLOSING or data[end + 1] != _OPENING:
            return None
        lines += 1
        end = data.find(b"\n", end + 1)
    return lines


def _counted_by_array(data: bytes) -> int | None:
    marks = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(marks == ord("\n"))
    inner = ends[:-1] if data.endswith(b"\n") else ends
    before = marks[inner - 1]
    before = np.where(before == _RETURN, marks[inner - 2], before)
    is_good = (before == _CLOSING).all() and (marks[inner + 1] == _OPENING).all()
    return len(inner) + 1 if is_good else None


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    offsets = np.array([0, len(data)], dtype=np.int64)
    try:
        text = pa.Array.from_buffers(pa.large_string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def parsed_line(line: bytes, where: Where, rejects: Rejects) -> tuple[Any] | None:
    """What the JSON in one line says; None if the line is blank, which is counted as empty, or bad."""
    text = decode(line, where, rejects)
    if text is None:
        return None
    if not text.strip():
        rejects.empty += 1
        return None
    try:
        return (json.loads(text),)
    except (ValueError, RecursionError) as error:
        rejects.reject("not JSON", where(0), f"{error}; the line is {shown(text)}")
        return None


def field_of(record: Any, dotted: str) -> tuple[Any, tuple[str, str] | None]:
    """The value of a field of a JSON value: (value, None), or (None, (reason, what was found))."""
    if not isinstance(record, dict):
        return None, ("not a JSON object", f"{type(record).__name__} {shown(json.dumps(record))}")
    for name in dotted.split("."):
        if not isinstance(record, dict) or name not in record:
            found = f"keys {', '.join(record) or 'none'}" if isinstance(record, dict) else shown(json.dumps(record))
            return None, (f"no field {dotted}", shown(found))
        record = record[name]
    return record, None


def _is_unicode(text: str) -> bool:
    # JSON can spell half a surrogate pair, which UTF-8 cannot.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
