"""Folders of files that appear whole or not at all: on a file system, or in an object store."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol

from data_shards.files import create_atomically, sync_folder, temporary_path, write_atomically
from data_shards.settings import is_remote


class Folder(Protocol):
    """A folder with files by name; `a/b` is a name. No reader ever sees a part of a file."""

    @property
    def address(self) -> str:
        """An absolute path or an address with a scheme, without a slash at its end."""

    def read(self, name: str) -> bytes | None:
        """The file, or None if there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Make or replace the file."""

    def create(self, name: str, data: bytes) -> bool:
        """Make the file unless it is there; False, and nothing done, if it is.

        Of several writers that try at once one succeeds. In an object store a writer whose bytes are there already is
        told True, since it may have put them there itself: data that must have one author names it.
        """

    def size(self, name: str) -> int | None:
        """Bytes of the file, or None if there is none."""

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of all files whose names start with `prefix`, by name, sorted.

        Names with a part that starts with a dot are left out, unless `prefix` holds that part with its slash.
        """

    def names(self, prefix: str = "") -> list[str]:
        """The names that `sizes` gives."""

    def remove(self, *names: str) -> None:
        """Remove those of the files that are there."""

    def staging(self, name: str) -> Path:
        """A local path to write a large file to, which `publish` then makes `name`."""

    def publish(self, staged: Path, name: str) -> None:
        """Give what was written at `staging(name)` and synced its name; `staged` is gone after that."""


class LocalFolder:
    """A folder of this machine's file system, or of one that all nodes see."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def address(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes | None:
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        path = self.path / name
        _make_folder(path.parent)
        write_atomically(path, data)

    def create(self, name: str, data: bytes) -> bool:
        path = self.path / name
        _make_folder(path.parent)
        return create_atomically(path, data)

    def size(self, name: str) -> int | None:
        try:
            status = (self.path / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        inside, _, _ = prefix.rpartition("/")
        found = {}
        # os.walk passes over folders that are removed meanwhile, as another prepare does when it ends.
        for folder, folders, files in os.walk(self.path / inside):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (Path(folder, name) for name in files if not name.startswith(".")):
                name = path.relative_to(self.path).as_posix()
                size = self.size(name) if name.startswith(prefix) else None
                if size is not None:
                    found[name] = size
        return dict(sorted(found.items()))

    def names(self, prefix: str = "") -> list[str]:
        return list(self.sizes(prefix))

    def remove(self, *names: str) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def staging(self, name: str) -> Path:
        path = temporary_path(self.path / name)
        _make_folder(path.parent)
        return path

    def publish(self, staged: Path, name: str) -> None:
        path = self.path / name
        staged.replace(path)
        sync_folder(path.parent)


def open_folder(address: str | Path) -> Folder:
    """The folder at an address. It need not be there yet.

    Raises DataError for a scheme that is unknown or whose library is not installed.
    """
    if isinstance(address, str) and is_remote(address):
        # It imports an object store's client, which takes its time.
        from data_shards.object_folder import ObjectFolder

        return ObjectFolder(address)
    return LocalFolder(Path(address))


def _make_folder(path: Path) -> None:
    """Make a folder that survives a power cut."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
