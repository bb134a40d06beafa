"""From the sources of the run file to files: patterns, formats, compression."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import zstandard

from data_shards.errors import DataError
from data_shards.hugging_face_folder import data_files
from data_shards.named_function import is_named, load_function, module_digest
from data_shards.settings import SourceSettings, is_remote
from data_shards.source_files import FileState, find, is_folder, open_source, reading, states
from data_shards.task_settings import TASK_FORMATS, task_text

Format = Literal["text", "jsonl", "parquet", "arrow", "webdataset", "tokens", "megatron", "reader"]
Compression = Literal["", "gz", "zst"]

CHUNK_BYTES = 1 << 18
_READER_FIELD = "data.sources.format"
_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".tar": "webdataset",
    ".idx": "megatron",
    ".bin": "megatron",
}
# What files of ids are made of, by suffix.
_CONTAINERS = {suffix: kind for suffix, kind in _FORMATS.items() if kind in ("jsonl", "parquet", "arrow")}
# These formats have places in them that are found by offset.
_NEVER_COMPRESSED = ("parquet", "arrow", "megatron")
_DEFAULT_FIELDS = {"jsonl": "text", "parquet": "text", "arrow": "text", "tokens": "input_ids"}
# Frames written with `zstd --long=31` need as large a window to be read.
_ZSTD_WINDOW_BYTES = 1 << 31


@dataclass(frozen=True)
class SourceFile:
    """A file of the corpus and how it is read. A Megatron pair goes by its index, the .idx file."""

    path: str
    format: Format
    compression: Compression
    field: str
    document: str
    container: str = ""  # of tokens: jsonl, parquet or arrow
    task: str = ""  # `task_text`, where it holds records of a task
    reader: str = ""  # the function that reads it, where it is the user's own, and the digest of its module
    reader_digest: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """All files that it is made of."""
        return (self.path,) if self.format != "megatron" else (self.path, f"{self.path.removesuffix('.idx')}.bin")


@dataclass(frozen=True)
class FoundFile:
    """A file of the corpus and its state when it was found."""

    file: SourceFile
    state: FileState


def find_files(source: SourceSettings, setting: str = "data.sources") -> tuple[FoundFile, ...]:
    """The files of a source with their states, sorted by path, or in the order that a dataset's folder gives.

    `setting` is for the messages. Raises DataError where nothing matches, a folder is given that is no Hugging Face
    dataset, or a format is unknown.
    """
    named = source
    found: dict[str, FileState] = {}
    if is_remote(source.path) or not is_folder(source.path):
        found = find(source.path)
        if not found and source.format == "megatron":
            found = find(f"{source.path}.idx")
    if not found and is_folder(source.path):
        found = _files_of_folder(source, setting)
        named = source.model_copy(update={"format": "arrow"}) if source.format == "auto" else source
    if not found:
        raise DataError(_nothing_found(source.path, setting))
    files = tuple(dict.fromkeys(_source_file(name, named) for name in found))
    if not any(file.format == "megatron" for file in files):
        return tuple(map(FoundFile, files, found.values()))
    return tuple(FoundFile(file, _whole(file, state)) for file, state in file_states(files).items())


def expand(source: SourceSettings, setting: str = "data.sources") -> tuple[SourceFile, ...]:
    """The files of a source; see `find_files`."""
    return tuple(found.file for found in find_files(source, setting))


def file_states(files: Iterable[SourceFile]) -> dict[SourceFile, FileState | None]:
    """The present states of files, None for those of which something is gone."""
    files = tuple(files)
    seen = states(path for file in files for path in file.paths)
    found: dict[SourceFile, FileState | None] = {}
    for file in files:
        parts = [seen[path] for path in file.paths]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts):
            found[file] = None
        elif len(whole) == 1:
            found[file] = whole[0]
        else:
            found[file] = FileState(sum(part.size for part in whole), " ".join(part.version for part in whole))
    return found


def read_chunks(path: str, compression: Compression, start: int, end: int) -> Iterator[bytes]:
    """The bytes [start, end) of a plain file; all bytes of a compressed one, decompressed.

    Raises DataError naming the file where it cannot be read, is shorter than `end`, or is damaged.
    """
    try:
        with open_source(path) as file, reading(path):  # gzip.BadGzipFile is an OSError
            if compression == "gz":
                yield from _read_gzip(file)
            elif compression == "zst":
                yield from _read_zstd(file, path)
            else:
                yield from _read_range(file, path, start, end)
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path}: damaged {compression} data ({error}): get the file anew") from error


def _files_of_folder(source: SourceSettings, setting: str) -> dict[str, FileState]:
    found = data_files(source.path, setting)
    if found is None:
        raise DataError(
            f"{setting}: {source.path} is a folder: name its files with a pattern, such as {source.path}/**/*.txt"
        )
    if source.format not in ("auto", "arrow", "tokens"):
        raise DataError(
            f"{setting}: {source.path} is a Hugging Face dataset, but its format is said to be {source.format}: "
            "leave format out, or give arrow or tokens"
        )
    return found


def _source_file(name: str, source: SourceSettings) -> SourceFile:
    if is_named(source.format):
        load_function(source.format, _READER_FIELD)
        digest = module_digest(source.format, _READER_FIELD)
        return SourceFile(name, "reader", "", "", "file", reader=source.format, reader_digest=digest)
    suffix, compression = _suffix_of(name)
    kind = cast(Format, source.format) if source.format != "auto" else _format_of(name, suffix)
    container = _container_of(name, suffix) if kind == "tokens" else ""
    _refuse_compressed(name, container or kind, compression)
    if source.task is not None and kind not in TASK_FORMATS:
        raise DataError(
            f"{name}: records of a task are read from {', '.join(TASK_FORMATS)} files, and this is {kind}: convert it, "
            "or give the source's format"
        )
    return SourceFile(
        path=_index_of(name, suffix) if kind == "megatron" else name,
        format=kind,
        compression=compression,
        field="" if source.task else _field_of(source, kind),
        document=source.document if kind == "text" else "",
        container=container,
        task="" if source.task is None else task_text(source.task),
    )


def _suffix_of(name: str) -> tuple[str, Compression]:
    """The suffix with its dot, in small letters, without that of the compression."""
    _, *suffixes = name.rpartition("/")[2].lstrip(".").lower().split(".")
    if suffixes[-1:] == ["tgz"]:
        return ".tar", "gz"
    compression: Compression = ""
    if suffixes and suffixes[-1] in ("gz", "zst"):
        compression = "gz" if suffixes.pop() == "gz" else "zst"
    return f".{suffixes[-1]}" if suffixes else "", compression


def _field_of(source: SourceSettings, kind: Format) -> str:
    if kind in ("text", "megatron"):
        return ""
    return source.field or _DEFAULT_FIELDS.get(kind, "")


def _format_of(name: str, suffix: str) -> Format:
    if suffix == ".json":
        raise DataError(f"{name}: .json may be one document or one a line: give the source's format, jsonl or text")
    return _FORMATS.get(suffix, "text")


def _container_of(name: str, suffix: str) -> str:
    if suffix not in _CONTAINERS:
        raise DataError(f"{name}: ids are read from {', '.join(_CONTAINERS)} files: convert the file to one of them")
    return _CONTAINERS[suffix]


def _index_of(name: str, suffix: str) -> str:
    if suffix not in (".idx", ".bin"):
        raise DataError(f"{name}: a Megatron dataset is a pair of .bin and .idx files: name one of them")
    return f"{name[: -len(suffix)]}.idx"


def _refuse_compressed(name: str, kind: str, compression: Compression) -> None:
    if compression and kind in _NEVER_COMPRESSED:
        called = {"parquet": "Parquet", "arrow": "Arrow", "megatron": "a Megatron dataset"}[kind]
        advice = "unpack it" if kind == "megatron" else f"unpack it ({called} compresses by itself)"
        raise DataError(f"{name}: {called} inside .{compression} is not read: {advice}")


def _whole(file: SourceFile, state: FileState | None) -> FileState:
    if state is None:
        missing = next((path for path in file.paths if not find(path)), file.path)
        raise DataError(
            f"{missing}: is missing: a Megatron dataset is a pair of .bin and .idx files; restore it, or give the "
            "source's format if the other file is none"
        )
    return state


def _nothing_found(pattern: str, setting: str) -> str:
    if is_remote(pattern):
        return f"{setting}: {pattern} matches no file: correct {setting} or put the files there"
    path = Path(pattern)
    return (
        f"{setting}: {path.name} matches no file in {_folder_looked_in(path)} (pattern {pattern}): "
        f"correct {setting} or put the files there"
    )


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
