"""A stream of bytes cut at the ends of records: many short records at once, a long one piece by piece."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

# A record that is no longer than this is held whole.
HELD_BYTES = 4 << 20
# No separator and no pair of terminators is longer.
_OVERLAP = 4


class LongRecord:
    """One record too long to be held, and its separator: iterate over its pieces, once and to the end."""

    def __init__(self, held: bytes, chunks: Iterator[bytes], separators: tuple[bytes, ...]) -> None:
        self._held = held
        self._chunks = chunks
        self._separators = separators
        self.lines = 0  # line ends in the pieces given so far
        self.rest = b""  # what follows the record, when all pieces are given

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces():
            self.lines += count_lines(piece)
            yield piece

    def _pieces(self) -> Iterator[bytes]:
        held = self._held
        self._held = b""
        while True:
            end = first_border(held, self._separators)
            if end:
                self.rest = held[end:]
                yield held[:end]
                return
            # A separator may lie across two chunks.
            keep = max(0, len(held) - _OVERLAP)
            if keep:
                yield held[:keep]
            chunk = next(self._chunks, b"")
            if not chunk:
                if held:
                    yield held[keep:]
                return
            held = held[keep:] + chunk


def regions(chunks: Iterable[bytes], separators: tuple[bytes, ...]) -> Iterator[bytes | LongRecord]:
    """Whole records with their separators at once, or one long record.

    A record ends after a separator; without separators all is one record. A long record must be read to its end before
    the next region is asked for. At most HELD_BYTES and a chunk are held.
    """
    source = iter(chunks)
    held = b""
    for chunk in source:
        fresh = chunk
        while fresh:
            end = last_border(fresh, separators)
            if end:
                yield b"".join((held, memoryview(fresh)[:end]))
            held = fresh[end:] if end else held + fresh
            fresh = b""
            if len(held) > HELD_BYTES:
                record = LongRecord(held, source, separators)
                held = b""
                yield record
                fresh = record.rest
    if held:
        yield held


def count_lines(data: bytes) -> int:
    """The number of line ends (LF); several times as fast as `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n")))


def last_border(data: bytes, separators: tuple[bytes, ...]) -> int:
    """The end of the last separator; 0 if there is none."""
    return max((at + len(separator) for separator in separators if (at := data.rfind(separator)) >= 0), default=0)


def first_border(data: bytes, separators: tuple[bytes, ...]) -> int:
    """The end of the separator that ends first; 0 if there is none."""
    return min((at + len(separator) for separator in separators if (at := data.find(separator)) >= 0), default=0)


def split_lines(data: bytes) -> list[bytes]:
    """Lines with their terminators; a line ends at LF alone, so U+2028 and its like stay within a line."""
    lines = data.split(b"\n")
    tail = lines.pop()
    return [line + b"\n" for line in lines] + ([tail] if tail else [])


def without_end(pieces: Iterable[bytes], end: re.Pattern[bytes]) -> Iterator[bytes]:
    """The pieces without what `end`, which matches at most 4 bytes and ends with $, matches at their very end."""
    held = b""
    for piece in pieces:
        held += piece
        if len(held) > _OVERLAP:
            yield held[:-_OVERLAP]
            held = held[-_OVERLAP:]
    if held := end.sub(b"", held, count=1):
        yield held
