"""Files cut into pieces of whole documents, and what identifies a piece wherever its file lies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from xxhash import xxh3_128, xxh3_128_hexdigest

from data_shards import arrow_source, megatron_source, parquet_source, webdataset_source
from data_shards.settings import is_remote
from data_shards.source_files import FileState, open_source, reading, state_of
from data_shards.sources import CHUNK_BYTES, FoundFile, SourceFile

# The text in a compressed file is taken to be this many times its size, for grouping alone.
_EXPANSION = 4

Range = tuple[int, int, int]
"""[start, end) in what the format counts in, and about as many bytes of text."""

# Formats that are cut by what is in them, and not at lines.
_RANGES: Mapping[str, Callable[[SourceFile, int], list[Range]]] = {
    "parquet": parquet_source.ranges,
    "arrow": arrow_source.ranges,
    "megatron": megatron_source.ranges,
    "webdataset": webdataset_source.ranges,
}
# Their pieces are bytes of the file.
_COUNTED_IN_BYTES = ("text", "jsonl", "webdataset")


@dataclass(frozen=True)
class Piece:
    """[start, end) of a file: bytes of text, JSONL and tars, row groups, record batches, or Megatron's documents."""

    file: SourceFile
    start: int
    end: int
    digest: str  # XXH3-128, in hex, of those bytes, or of the whole file; of its state if the file is remote
    text_bytes: int  # about as many

    def identity(self) -> list[Any]:
        """What the piece's documents depend on, without path and place."""
        file = self.file
        stretch = [] if _content(file) in _COUNTED_IN_BYTES else [self.start, self.end]
        manner = [file.format, file.compression, file.field, file.document, file.container]
        function = file.reader.rpartition(":")[2]
        own = [file.task] if file.task else [function, file.reader_digest] if file.reader else []
        return [*manner, self.digest, stretch, *own]


PieceCutter = Callable[[FoundFile, int], tuple[Piece, ...]]


def cut_file(found: FoundFile, unit_bytes: int) -> tuple[Piece, ...]:
    """Cut a file into pieces of whole documents of at most `unit_bytes` each, where documents are no longer than that.

    A local file is read as a whole for its hashes; a remote one goes by the state that its store tells, if it does.
    Raises DataError where a file cannot be read.
    """
    file, state = found.file, found.state
    if _content(file) in _RANGES:
        ranges = _RANGES[_content(file)](file, unit_bytes)
    elif not _separators(file) or state.size <= unit_bytes:
        ranges = [(0, state.size, state.size)]
    else:
        with open_source(file.path) as stream, reading(file.path):
            cuts = _cuts(stream, state.size, _separators(file), unit_bytes)
            ranges = [(start, end, end - start) for start, end in cuts]
    factor = _EXPANSION if file.compression else 1
    digests = _digests(file, state, ranges)
    return tuple(
        Piece(file, start, end, digest, size * factor)
        for (start, end, size), digest in zip(ranges, digests, strict=True)
    )


def _content(file: SourceFile) -> str:
    return file.container or file.format


def _digests(file: SourceFile, state: FileState, ranges: list[Range]) -> list[str]:
    if is_remote(file.path) and state.version:
        parts = (json.dumps([state.size, state.version, start, end]) for start, end, _ in ranges)
        return [xxh3_128_hexdigest(part.encode()) for part in parts]
    if _content(file) in _COUNTED_IN_BYTES:
        with open_source(file.path) as stream, reading(file.path):
            return [_hash_range(stream, start, end) for start, end, _ in ranges]
    sizes = [state_of(path).size for path in file.paths]
    whole = "".join(_hash_file(path, size) for path, size in zip(file.paths, sizes, strict=True))
    return [xxh3_128_hexdigest(whole.encode())] * len(ranges)


def _hash_file(path: str, size: int) -> str:
    with open_source(path) as stream, reading(path):
        return _hash_range(stream, 0, size)


def _hash_range(stream: BinaryIO, start: int, end: int) -> str:
    digest = xxh3_128()
    if stream.tell() != start:
        stream.seek(start)
    left = end - start
    while left and (chunk := stream.read(min(CHUNK_BYTES, left))):
        digest.update(chunk)
        left -= len(chunk)
    return str(digest.hexdigest())


def _separators(file: SourceFile) -> tuple[bytes, ...]:
    """What ends a document wherever it stands; nothing, if the file may not be cut."""
    if file.compression or file.document == "file":
        return ()
    return (b"\n\n", b"\n\r\n") if file.document == "blank_line" else (b"\n",)


def _cuts(stream: BinaryIO, size: int, separators: tuple[bytes, ...], unit_bytes: int) -> Iterator[tuple[int, int]]:
    start = 0
    while size - start > unit_bytes:
        end = _last_border(stream, start, start + unit_bytes, separators)
        end = end or _next_border(stream, start, start + unit_bytes, separators) or size
        yield start, end
        start = end
    if start < size:
        yield start, size


def _last_border(stream: BinaryIO, start: int, limit: int, separators: tuple[bytes, ...]) -> int | None:
    """The last place in (start, limit] right after a separator that lies wholly within [start, limit)."""
    high = limit
    overlap = max(map(len, separators)) - 1
    while high > start:
        low = max(start, high - CHUNK_BYTES)
        stream.seek(low)
        block = stream.read(min(high + overlap, limit) - low)
        found = [block.rfind(separator) + len(separator) for separator in separators if separator in block]
        if found:
            return low + max(found)
        high = low
    return None


def _next_border(stream: BinaryIO, start: int, limit: int, separators: tuple[bytes, ...]) -> int | None:
    """The first place after `limit` right after a separator that starts at or after `start`."""
    overlap = max(map(len, separators)) - 1
    low = max(start, limit - overlap)
    while True:
        stream.seek(low)
        block = stream.read(CHUNK_BYTES + overlap)
        found = [block.find(separator) + len(separator) for separator in separators if separator in block]
        if found:
            return low + min(found)
        if len(block) < CHUNK_BYTES + overlap:
            return None
        low += CHUNK_BYTES
