"""Where checkpoints lie: a folder that all ranks see, or an object store. A checkpoint is a folder with a manifest."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from data_shards.settings import is_remote
from trainer.checkpoint.files import Chunk, Written, nothing, sync_folder, write_durably
from trainer.checkpoint.manifest import MANIFEST_NAME

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_logger = logging.getLogger(__name__)


class Storage(Protocol):
    """Folders of files. A file's name is FOLDER/FILE; no reader ever sees a part of a file.

    Where the storage fails, the methods raise OSError (a file system) or DataError (an object store).
    """

    poll_seconds: float
    """How often it is fair to look for a file that another rank will write."""

    @property
    def address(self) -> str:
        """An absolute path, or an address with a scheme, without a slash at its end."""

    def folders(self) -> list[str]:
        """Names of the folders that there are, empty ones included where the storage knows such."""

    def read(self, name: str) -> bytes | None:
        """A small file, or None if there is none."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the files in a folder by their names in it, half written ones left out."""

    def write(self, name: str, chunks: Iterator[Chunk], before_rename: Callable[[], None] = nothing) -> Written:
        """Make or replace a large file, and have it safe on the disk when this returns."""

    def publish(self, name: str, data: bytes) -> None:
        """Make a small file, safe on the disk. An object store refuses (TrainError) where one is there already."""

    def withdraw(self, name: str) -> None:
        """Remove a file if it is there."""

    def remove(self, folder: str) -> bool:
        """Remove a folder, the manifest first; False, and nothing done, while somebody reads the checkpoint."""

    def on_disk(self, name: str) -> AbstractContextManager[Path]:
        """The file on this machine: itself, or a copy that goes with the context. FileNotFoundError if it is gone."""

    def held(self, folder: str) -> AbstractContextManager[None]:
        """A context in which `remove` of this folder, by any process, does nothing."""


class LocalStorage:
    """A folder of this machine's file system, or of one that all nodes see.

    A reader holds a shared lock on the manifest (flock, which goes with the process, also over NFS).
    """

    poll_seconds = 0.01

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def address(self) -> str:
        return str(self.path)

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir() if path.is_dir()) if self.path.is_dir() else []

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def sizes(self, folder: str) -> dict[str, int]:
        path = self.path / folder
        if not path.is_dir():
            return {}
        files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
        return {file.name: file.stat().st_size for file in files}

    def write(self, name: str, chunks: Iterator[Chunk], before_rename: Callable[[], None] = nothing) -> Written:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_durably(path, chunks, before_rename)

    def publish(self, name: str, data: bytes) -> None:
        self.write(name, iter([data]))
        sync_folder(self.path)

    def withdraw(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def remove(self, folder: str) -> bool:
        path = self.path / folder
        with _exclusive(path / MANIFEST_NAME) as is_free:
            if not is_free:
                return False
            # The manifest goes first: a removal that is cut short leaves no checkpoint that seems whole.
            (path / MANIFEST_NAME).unlink(missing_ok=True)
            if path.is_dir():
                sync_folder(path)
                shutil.rmtree(path)
        return True

    @contextmanager
    def on_disk(self, name: str) -> Iterator[Path]:
        path = self.path / name
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield path

    @contextmanager
    def held(self, folder: str) -> Iterator[None]:
        path = self.path / folder / MANIFEST_NAME
        if not path.is_file():
            yield
            return
        with path.open("rb") as file:
            _lock(file.fileno(), fcntl.LOCK_SH)
            yield


def open_storage(address: Path | str) -> Storage:
    """The storage at an absolute path or an address with a scheme. It need not be there yet.

    Raises DataError for a scheme that is unknown or whose library is not installed.
    """
    if isinstance(address, str) and is_remote(address):
        # It imports an object store's client, which takes its time.
        from trainer.checkpoint.object_storage import ObjectStorage

        return ObjectStorage(address)
    return LocalStorage(Path(address))


def open_checkpoint(address: Path | str) -> tuple[Storage, str]:
    """The storage and the folder's name of one checkpoint."""
    if isinstance(address, Path) or not is_remote(address):
        path = Path(address).absolute()
        return LocalStorage(path.parent), path.name
    parent, _, name = address.rstrip("/").rpartition("/")
    return open_storage(parent), name


@contextmanager
def _exclusive(path: Path) -> Iterator[bool]:
    """Whether nobody else holds a lock on the file, for as long as the context lasts; True where there is no file."""
    try:
        file = path.open("r+b")  # over NFS an exclusive lock needs a file that is open for writing
    except FileNotFoundError:
        yield True
        return
    with file:
        yield _lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock(descriptor: int, kind: int) -> bool:
    """Whether the lock was got; a file system without locks gives every one."""
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _logger.info("this file system has no locks (%s): a checkpoint may be removed while it is read", error.strerror)
    return True
