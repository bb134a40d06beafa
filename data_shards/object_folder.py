"""Folders of files in an object store, through fsspec: s3://, gs://, and memory:// within one process."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from data_shards.errors import DataError, StoreError
from data_shards.files import temporary_path
from data_shards.source_files import file_system

logger = logging.getLogger(__name__)

# fsspec's clients hold this many parts of this size of an upload in memory, and send smaller files in one piece.
PART_BYTES = 16 << 20
PARTS_AT_ONCE = 4
# A store may refuse a conditional put because another one is under way (S3: 409), which says nothing of the outcome.
CREATE_WAITS_SECONDS = (0.1, 0.4, 1.6, 6.4)
_TIMES_OF_CHANGE = ("LastModified", "updated", "mtime", "created")


class ObjectFolder:
    """The objects whose keys start with an address and a slash.

    Stores show an object whole or not at all, and at once to all (S3 since 2020, Google Cloud Storage always); nothing
    is remembered here, so nothing that another writer did is missed. Every method raises DataError, naming the object
    and what the store's client says, where the store refuses or does not answer.
    """

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        self._scheme = address.partition("://")[0]
        self._made_by = os.getpid()
        self._made = file_system(self._address)
        self._root: str = self._made._strip_protocol(self._address)

    @property
    def address(self) -> str:
        return self._address

    def read(self, name: str) -> bytes | None:
        with self._telling(name):
            try:
                return bytes(self._files.cat_file(self._key(name)))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        with self._telling(name):
            self._files.pipe_file(self._key(name), data)

    def create(self, name: str, data: bytes) -> bool:
        for wait_seconds in (*CREATE_WAITS_SECONDS, None):
            try:
                with self._telling(name):
                    self._files.pipe_file(self._key(name), data, mode="create")
                return True
            except DataError as error:
                # A put whose answer is lost is sent again by the client, and then refused because of itself.
                found = self.read(name)
                if found is not None:
                    return found == data
                if wait_seconds is None or isinstance(error.__cause__, (PermissionError, FileNotFoundError)):
                    raise
                logger.info("%s; trying again", error)
                time.sleep(wait_seconds)
        raise AssertionError("the last try returns or raises")

    def size(self, name: str) -> int | None:
        with self._telling(name):
            try:
                found = self._files.info(self._key(name))
            except FileNotFoundError:
                return None
        return int(found["size"]) if found["type"] == "file" else None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        return {name: int(found["size"]) for name, found in self._listed(prefix).items()}

    def names(self, prefix: str = "") -> list[str]:
        return list(self._listed(prefix))

    def names_older_than(self, seconds: float, prefix: str = "") -> list[str]:
        """The names that `sizes` gives, of files that were last written more than so many seconds ago."""
        limit = time.time() - seconds
        return [name for name, found in self._listed(prefix).items() if _time_of_change(found) < limit]

    def remove(self, *names: str) -> None:
        if self._scheme == "memory":  # which removes those before the first that is not there
            names = tuple(name for name in names if self.size(name) is not None)
        if names:
            with self._telling(names[0]), suppress(FileNotFoundError):
                self._files.rm([self._key(name) for name in names])

    def staging(self, name: str) -> Path:
        return temporary_path(Path(tempfile.gettempdir()) / Path(name).name)

    def publish(self, staged: Path, name: str) -> None:
        size = staged.stat().st_size
        with self._telling(name):
            self._files.put_file(
                str(staged), self._key(name), chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE, mode="overwrite"
            )
        found = self.size(name)
        if found != size:
            raise DataError(f"{self._address}/{name}: {size} bytes were written, but the store has {found}: try again")
        staged.unlink()

    def download(self, name: str, to: Path) -> bool:
        """Copy a file to a local path, which may hold a part of it after an error; False if there is no such file."""
        with self._telling(name):
            try:
                self._files.get_file(self._key(name), str(to))
            except FileNotFoundError:
                return False
        return True

    @property
    def _files(self) -> Any:
        if self._made_by != os.getpid():  # a client's connections and thread do not survive a fork
            self._made, self._made_by = file_system(self._address), os.getpid()
        return self._made

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _listed(self, prefix: str) -> dict[str, Any]:
        inside, slash, stem = prefix.rpartition("/")
        start = self._key(inside) if slash else self._root
        with self._telling(prefix):
            try:
                found = self._files.find(start, detail=True, **({"prefix": stem} if stem else {}))
            except FileNotFoundError:
                return {}
        names = {str(key).removeprefix(f"{self._root}/"): info for key, info in found.items()}
        return {
            name: info
            for name, info in sorted(names.items())
            if info["type"] == "file" and name.startswith(prefix) and not _is_hidden(name[len(inside) :])
        }

    @contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each store's client has exceptions of its own, without a common base
            told = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise StoreError(
                f"{self._address}/{name}: the store refused or did not answer ({told}): correct the address, its "
                "credentials or the access to it"
            ) from error


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _time_of_change(info: Any) -> float:
    """Seconds since 1970; now, if the store does not tell."""
    for name in _TIMES_OF_CHANGE:
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return time.time()
