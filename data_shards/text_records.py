"""Documents of plain text files: files, lines, or what stands between blank lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from data_shards.batches import PART_BYTES, Batch, TextBatch, text_batches
from data_shards.line_counter import LineCounter
from data_shards.long_text import document_batches, long_document
from data_shards.regions import LongRecord, count_lines, regions, split_lines, without_end
from data_shards.rejects import Rejects
from data_shards.sources import SourceFile, read_chunks
from data_shards.utf8 import decode

Record = tuple[int, bytes]
"""The number of its first line in its region, and its bytes without terminator."""

SEPARATORS: dict[str, tuple[bytes, ...]] = {"line": (b"\n",), "blank_line": (b"\n\n", b"\n\r\n")}
_END = {"line": re.compile(rb"(?:\r?\n)?\Z"), "blank_line": re.compile(rb"(?:\r?\n){0,2}\Z")}
_LINE_END = re.compile(rb"\r?\n")
_BLANK_LINES = re.compile(r"\r?\n(?:\r?\n)+")
_LINE_ENDS_AROUND = re.compile(r"\A(?:\r?\n)+|\r?\n\Z")


def read(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[Batch]:
    """The documents of bytes [start, end) of a file, exactly as they stand there.

    A `line` document is the line without its terminator (LF or CR LF), a `blank_line` document the lines between empty
    lines without the last one's terminator. Empty documents are left out and counted.
    """
    chunks = read_chunks(file.path, file.compression, start, end)
    lines = LineCounter(file, start)
    if file.document == "file":
        yield from _whole_file(chunks, lines, rejects)
        return
    line = 0
    for region in regions(chunks, SEPARATORS[file.document]):
        if isinstance(region, LongRecord):
            yield from _long_record(region, file.document, lines, line, rejects)
            line += region.lines
        else:
            yield from _region(region, file.document, lines, line, rejects)
            line += count_lines(region)


def _whole_file(chunks: Iterator[bytes], lines: LineCounter, rejects: Rejects) -> Iterator[Batch]:
    head = b""
    for chunk in chunks:
        head = head + chunk if head else chunk
        if len(head) > PART_BYTES:
            yield from text_batches(long_document(chain((head,), chunks), lines.at(0), rejects), lines.at(0))
            return
    text = decode(head, lines.at(0), rejects)
    if text:
        yield TextBatch([text], place=lines.at(0))
    rejects.empty += text == ""


def _long_record(record: LongRecord, document: str, lines: LineCounter, line: int, rejects: Rejects) -> Iterator[Batch]:
    pieces = iter(record)
    first = next(pieces)
    # One blank line may stand before it: two would be a separator.
    if document == "blank_line" and (blank := _LINE_END.match(first)):
        first = first[blank.end() :]
        line += 1
    trimmed = without_end(chain((first,), pieces), _END[document])
    yield from text_batches(long_document(trimmed, lines.at(line), rejects), lines.at(line))


def _region(data: bytes, document: str, lines: LineCounter, line: int, rejects: Rejects) -> Iterator[Batch]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        yield from _records(data, document, lines, line, rejects)
        return
    if document == "blank_line":
        texts = split_paragraphs(text)
        numbers = None
    else:
        whole = split_text_lines(text)
        texts = list(filter(None, whole))
        rejects.empty += len(whole) - len(texts)
        numbers = None if len(texts) == len(whole) else [number for number, text in enumerate(whole) if text]

    def place(i: int) -> str:
        if document == "blank_line":
            return lines.where(line + next(number for j, (number, _) in enumerate(paragraphs(data)) if j == i))
        return lines.where(line + (i if numbers is None else numbers[i]))

    yield from document_batches(texts, place, rejects)


def _records(data: bytes, document: str, lines: LineCounter, line: int, rejects: Rejects) -> Iterator[Batch]:
    """A region's documents one by one, so that bad ones are told from good ones."""
    texts, numbers = [], []
    for number, record in line_records(data) if document == "line" else paragraphs(data):
        text = decode(record, lines.at(line + number), rejects)
        if text:
            texts.append(text)
            numbers.append(number)
        rejects.empty += text == ""
    yield from document_batches(texts, lambda i: lines.where(line + numbers[i]), rejects)


def split_text_lines(text: str) -> list[str]:
    """Lines without LF or CR LF; equal to `line_records` of its UTF-8."""
    lines = text.split("\n")
    tail = lines.pop()
    if "\r" in text:
        lines = [line[:-1] if line.endswith("\r") else line for line in lines]
    return [*lines, tail] if tail else lines


def split_paragraphs(text: str) -> list[str]:
    """What stands between blank lines; equal to `paragraphs` of its UTF-8."""
    if "\r" not in text:
        return [kept for part in text.split("\n\n") if (kept := part.strip("\n"))]
    return [kept for part in _BLANK_LINES.split(text) if (kept := _LINE_ENDS_AROUND.sub("", part))]


def line_records(data: bytes) -> Iterator[Record]:
    """Lines, one by one."""
    for number, line in enumerate(split_lines(data)):
        yield number, _without_terminator(line)


def paragraphs(data: bytes) -> Iterator[Record]:
    """Runs of lines that are not blank, one by one."""
    kept: list[bytes] = []
    number = -1
    for number, line in enumerate(split_lines(data)):
        if line not in (b"\n", b"\r\n"):
            kept.append(line)
        elif kept:
            yield number - len(kept), _without_terminator(b"".join(kept))
            kept = []
    if kept:
        yield number + 1 - len(kept), _without_terminator(b"".join(kept))


def _without_terminator(line: bytes) -> bytes:
    return line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n")
