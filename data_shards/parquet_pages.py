"""How large the pages of a Parquet file are, which its metadata do not tell.

A page is the least that can be read of a column, and writers that count rows instead of bytes make pages of any size.
The headers between the pages are read and nothing else (Apache Parquet format, parquet.thrift: PageHeader; Thrift
compact protocol).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
_HEADER_BYTES = 1 << 16
_UNCOMPRESSED_SIZE, _COMPRESSED_SIZE = 2, 3


def page_sizes(stream: BinaryIO, start: int, size: int) -> Iterator[int]:
    """Uncompressed bytes of each page in the `size` bytes of a column chunk that begins at byte `start` of the file.

    Raises ValueError where there is no page header where one should be.
    """
    place, end = start, start + size
    while place < end:
        header = _read_header(stream, place, end)
        values, length = header
        uncompressed, compressed = values.get(_UNCOMPRESSED_SIZE), values.get(_COMPRESSED_SIZE)
        if uncompressed is None or compressed is None or uncompressed < 0 or compressed < 0:
            raise ValueError(f"no page header at byte {place}")
        yield uncompressed
        place += length + compressed


def _read_header(stream: BinaryIO, place: int, end: int) -> tuple[dict[int, int], int]:
    """The header's integer fields by number, and its length."""
    size = _HEADER_BYTES
    while True:
        stream.seek(place)
        data = stream.read(min(size, end - place))
        try:
            return _struct(data, 0)
        except IndexError:
            # Statistics may hold values of any length.
            if size >= end - place:
                raise ValueError(f"page header at byte {place} is cut off") from None
            size *= 4


def _struct(data: bytes, at: int) -> tuple[dict[int, int], int]:
    """Integer fields of a struct by number, and where it ends. IndexError where the data end before it."""
    fields: dict[int, int] = {}
    number = 0
    while data[at] != _STOP:
        kind, step = data[at] & 0x0F, data[at] >> 4
        at += 1
        if step:
            number += step
        else:
            raw, at = _varint(data, at)
            number = _zigzag(raw)
        if kind in _INTEGERS:
            raw, at = _varint(data, at)
            fields[number] = _zigzag(raw)
        else:
            at = _skip(data, at, kind)
    return fields, at + 1


def _skip(data: bytes, at: int, kind: int) -> int:
    if kind in (_TRUE, _FALSE):
        return at
    if kind in (_BYTE, _DOUBLE):
        return at + (1 if kind == _BYTE else 8)
    if kind in _INTEGERS:
        return _varint(data, at)[1]
    if kind == _BINARY:
        length, at = _varint(data, at)
        return at + length
    if kind in (_LIST, _SET):
        return _skip_list(data, at)
    if kind == _STRUCT:
        return _struct(data, at)[1]
    raise ValueError(f"unknown kind {kind} in a page header")


def _skip_list(data: bytes, at: int) -> int:
    kind, length = data[at] & 0x0F, data[at] >> 4
    at += 1
    if length == 0x0F:
        length, at = _varint(data, at)
    for _ in range(length):
        at = at + 1 if kind in (_TRUE, _FALSE) else _skip(data, at, kind)
    return at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if shift > 63:
            raise ValueError("a number in a page header is too long")
    return value | data[at] << shift, at + 1


def _zigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)
