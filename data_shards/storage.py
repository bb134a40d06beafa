"""Folders of files that appear whole or not at all, on a file system."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from data_shards.files import create_atomically, sync_folder, temporary_path, write_atomically


class Folder(Protocol):
    """A folder with files by name; `a/b` is a name. No reader ever sees a part of a file."""

    @property
    def address(self) -> str:
        """An absolute path or an address with a scheme."""

    def read(self, name: str) -> bytes | None:
        """The file, or None if there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Make or replace the file."""

    def create(self, name: str, data: bytes) -> bool:
        """Make the file unless it is there; False, and nothing done, if it is."""

    def size(self, name: str) -> int | None:
        """Bytes of the file, or None if there is none."""

    def names(self, prefix: str = "") -> list[str]:
        """All names that start with `prefix`, sorted, but for those with a part that starts with a dot."""

    def remove(self, name: str) -> None:
        """Remove the file if it is there."""

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
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)

    def create(self, name: str, data: bytes) -> bool:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return create_atomically(path, data)

    def size(self, name: str) -> int | None:
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def names(self, prefix: str = "") -> list[str]:
        start = self.path / prefix.rpartition("/")[0]
        found = (path.relative_to(self.path) for path in start.rglob("*") if path.is_file())
        visible = (path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
        return sorted(name for name in visible if name.startswith(prefix))

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def staging(self, name: str) -> Path:
        path = temporary_path(self.path / name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def publish(self, staged: Path, name: str) -> None:
        path = self.path / name
        staged.replace(path)
        sync_folder(path.parent)


def open_folder(address: str | Path) -> Folder:
    """The folder at an address. It need not be there yet."""
    return LocalFolder(Path(address))
