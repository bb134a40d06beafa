"""From the sources of the run file to files: patterns, formats, compression."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import BinaryIO, Literal

import zstandard

from data_shards.errors import DataError
from data_shards.settings import SourceSettings

Format = Literal["text", "jsonl", "parquet"]
Compression = Literal["", "gz", "zst"]

CHUNK_BYTES = 1 << 20
_JSONL_SUFFIXES = (".jsonl", ".ndjson")
_PARQUET_SUFFIXES = (".parquet", ".pq")
# Frames written with `zstd --long=31` need as large a window to be read.
_ZSTD_WINDOW_BYTES = 1 << 31


@dataclass(frozen=True)
class SourceFile:
    """A file of the corpus and how it is read."""

    path: str
    format: Format
    compression: Compression
    field: str
    document: str


def expand(source: SourceSettings, setting: str = "data.sources") -> tuple[SourceFile, ...]:
    """The files of a source, sorted by path; `setting` is for the messages.

    Raises DataError where nothing matches, a folder is given, or a format is unknown.
    """
    path = Path(source.path)
    if path.is_dir():
        raise DataError(f"{setting}: {path} is a folder: name its files with a pattern, such as {path}/**/*.txt")
    # Path.glob would match hidden files too.
    found = [source.path] if path.is_file() else glob(source.path, recursive=True)  # noqa: PTH207
    files = sorted(name for name in found if Path(name).is_file())
    if not files:
        raise DataError(
            f"{setting}: {path.name} matches no file in {_folder_looked_in(path)} (pattern {source.path}): "
            f"correct {setting} or put the files there"
        )
    return tuple(_source_file(name, source) for name in files)


def read_chunks(path: str, compression: Compression, start: int, end: int) -> Iterator[bytes]:
    """The bytes [start, end) of a plain file; all bytes of a compressed one, decompressed.

    Raises DataError naming the file where it cannot be read, is shorter than `end`, or is damaged.
    """
    try:
        with Path(path).open("rb") as file:
            if compression == "gz":
                yield from _read_gzip(file)
            elif compression == "zst":
                yield from _read_zstd(file, path)
            else:
                yield from _read_range(file, path, start, end)
    except OSError as error:  # gzip.BadGzipFile is one
        raise DataError(f"{path}: cannot be read ({error.strerror or error}): correct or leave out the file") from error
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path}: damaged {compression} data ({error}): get the file anew") from error


def _source_file(name: str, source: SourceSettings) -> SourceFile:
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    compression: Compression = ""
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        compression = "gz" if suffixes.pop() == ".gz" else "zst"
    kind = source.format if source.format != "auto" else _format_of(name, suffixes[-1] if suffixes else "")
    if kind == "parquet" and compression:
        raise DataError(f"{name}: Parquet inside .{compression} is not read: unpack it (Parquet compresses by itself)")
    return SourceFile(
        path=name,
        format=kind,
        compression=compression,
        field=source.field if kind != "text" else "",
        document=source.document if kind == "text" else "",
    )


def _format_of(name: str, suffix: str) -> Format:
    if suffix in _JSONL_SUFFIXES:
        return "jsonl"
    if suffix in _PARQUET_SUFFIXES:
        return "parquet"
    if suffix == ".json":
        raise DataError(f"{name}: .json may be one document or one a line: give the source's format, jsonl or text")
    return "text"


def _folder_looked_in(path: Path) -> Path:
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _read_range(file: BinaryIO, path: str, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    left = end - start
    while left:
        chunk = file.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise DataError(f"{path}: {left} bytes shorter than when it was looked at first: run prepare again")
        left -= len(chunk)
        yield chunk


def _read_gzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as unpacked:
        while chunk := unpacked.read(CHUNK_BYTES):
            yield chunk


def _read_zstd(file: BinaryIO, path: str) -> Iterator[bytes]:
    # By hand, because zstandard's stream_reader ends silently where a frame is cut off.
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    frame = None
    pending = b""
    while chunk := pending or file.read(CHUNK_BYTES):
        frame = frame or decompressor.decompressobj()
        unpacked = frame.decompress(chunk)
        pending = frame.unused_data if frame.eof else b""
        if frame.eof:
            frame = None
        if unpacked:
            yield unpacked
    if frame is not None:
        raise DataError(f"{path}: damaged zst data (cut off within a frame): get the file anew")
