"""Files of a corpus, on this machine or at an address that fsspec knows: found, looked at, opened for reading."""

from __future__ import annotations

import io
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec

from data_shards.errors import DataError
from data_shards.settings import is_remote

# A remote file is asked for in stretches of this size, one held at a time.
READ_AHEAD_BYTES = 4 << 20
_CONTENT_TAGS = ("ETag", "md5Hash", "crc32c", "etag", "checksum")
_TIMES_OF_CHANGE = ("LastModified", "updated", "last_modified", "mtime", "created")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


@dataclass(frozen=True)
class FileState:
    """What tells a file from another at the same path: its size and its version.

    The version is the time of change in nanoseconds of a local file, the entity tag or else the time of change of a
    remote one, and empty where the store tells neither.
    """

    size: int
    version: str


def find(pattern: str) -> dict[str, FileState]:
    """The file of that name or else those that match the pattern, sorted by path; hidden ones only if it names them."""
    if not is_remote(pattern):
        # Path.glob would match hidden files too.
        with reading(pattern):
            is_file = Path(pattern).is_file()
        names = [pattern] if is_file else sorted(glob(pattern, recursive=True))  # noqa: PTH207
        found = {name: _local_state(name) for name in names}
        return {name: state for name, state in found.items() if state is not None}
    system = file_system(pattern)
    with _telling(pattern):
        exact = _info(system, pattern)
        if exact is not None:
            rows = {system.unstrip_protocol(exact["name"]): exact}
        else:
            listed: Mapping[str, Any] = system.glob(pattern, detail=True)
            rows = {system.unstrip_protocol(name): info for name, info in sorted(listed.items())}
        visible = {name: info for name, info in rows.items() if info["type"] == "file" and not _hidden(name, pattern)}
        return {name: _remote_state(info) for name, info in visible.items()}


def is_folder(path: str) -> bool:
    """Whether there is a folder of that name."""
    if not is_remote(path):
        with reading(path):
            return Path(path).is_dir()
    with _telling(path):
        return bool(file_system(path).isdir(path))


def states(paths: Iterable[str]) -> dict[str, FileState | None]:
    """The present states of files, None for those that are gone. Remote files are listed by the folder."""
    found: dict[str, FileState | None] = {}
    folders: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if is_remote(path):
            folders[path.rpartition("/")[0]].append(path)
        else:
            found[path] = _local_state(path)
    for folder, members in folders.items():
        system = file_system(folder)
        with _telling(folder):
            if len(members) == 1:
                listed = {path: _info(system, path) for path in members}
            else:
                listed = {system.unstrip_protocol(info["name"]): info for info in system.ls(folder, detail=True)}
        for path in members:
            info = listed.get(path)
            found[path] = None if info is None else _remote_state(info)
    return found


def state_of(path: str) -> FileState:
    """The file's present state. Raises DataError if it is gone."""
    state = states([path])[path]
    if state is None:
        raise DataError(f"{path}: cannot be read (No such file or directory): correct or leave out the file")
    return state


def open_source(path: str) -> BinaryIO:
    """Open a file for reading from any place of it. Raises DataError, then and at each read, where it cannot be read.

    A remote file is read ahead by `READ_AHEAD_BYTES`, so that small reads in a row cost one request together.
    """
    with reading(path):
        if not is_remote(path):
            return open(path, "rb")  # noqa: PTH123
    system = file_system(path)
    with _telling(path):
        opened = system.open(path, "rb", block_size=READ_AHEAD_BYTES)
    return io.BufferedReader(_RemoteFile(opened, path), buffer_size=1 << 20)


def read_bytes(address: str) -> bytes:
    """All of a small file, such as a tokenizer. Raises DataError where it cannot be read."""
    with open_source(address) as file, reading(address):
        return file.read()


def read_range(path: str, start: int, size: int) -> bytes:
    """Bytes [start, start + size) of a file. Raises DataError where there are fewer."""
    with open_source(path) as file, reading(path):
        file.seek(start)
        data = file.read(size)
    if len(data) < size:
        raise DataError(f"{path}: {size - len(data)} bytes shorter than its header says: get the file anew")
    return data


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns the operating system's errors into DataErrors that name the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}): correct or leave out the file") from error


class _RemoteFile(io.RawIOBase):
    """A file of fsspec whose errors, of as many kinds as there are stores, are DataErrors that name it."""

    def __init__(self, file: Any, path: str) -> None:
        self._file = file
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with _telling(self._path):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def _telling(address: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # each store's client has exceptions of its own, without a common base
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{address}: cannot be read ({told}): correct the address or the access to it") from error


def file_system(address: str) -> Any:
    """The fsspec file system of an address; DataError if there is none for its scheme."""
    scheme = address.partition("://")[0]
    try:
        # Without a cache of listings: a file that changed is to be seen.
        return fsspec.core.url_to_fs(address, use_listings_cache=False)[0]
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        advice = f"pip install headrace[{extra}]" if extra else "install the package that it names"
        raise DataError(f"{address}: {scheme}:// needs a package that is not installed ({error}): {advice}") from error
    except ValueError as error:
        raise DataError(
            f"{address}: no file system is known for {scheme}://: give a local path, s3://, gs:// or another scheme "
            "of fsspec"
        ) from error


def _info(system: Any, path: str) -> Any:
    try:
        return system.info(path)
    except FileNotFoundError:
        return None


def _hidden(name: str, pattern: str) -> bool:
    shown = {part for part in PurePosixPath(pattern).parts if part.startswith(".")}
    dotted = {part for part in PurePosixPath(name).parts if part.startswith(".")}
    return bool(dotted) and not shown


def _local_state(path: str) -> FileState | None:
    try:
        status = os.stat(path)  # noqa: PTH116  # a Path for each of a million files takes longer than the file system
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): correct or leave out the file") from error
    return FileState(status.st_size, str(status.st_mtime_ns)) if stat.S_ISREG(status.st_mode) else None


def _remote_state(info: Mapping[str, Any]) -> FileState:
    size = info.get("size")
    if size is None:
        raise DataError(f"{info.get('name')}: the store does not tell its size: copy the file to a local folder")
    for names in (_CONTENT_TAGS, _TIMES_OF_CHANGE):
        for name in names:
            if value := info.get(name):
                return FileState(int(size), str(value.timestamp() if isinstance(value, datetime) else value))
    return FileState(int(size), "")
