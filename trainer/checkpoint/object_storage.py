"""Checkpoints in an object store, through fsspec: s3://, gs://.

A store that fails for some time is asked again and again: an outage makes a save late and does not lose it.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from data_shards.errors import DataError
from data_shards.object_folder import ObjectFolder
from trainer.checkpoint.files import Chunk, Written, nothing, write_durably
from trainer.checkpoint.manifest import MANIFEST_NAME
from trainer.errors import TrainError

PATIENCE_SECONDS = 180.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 8.0
LEASE_SECONDS = 3600.0
"""How long a reader that died keeps a checkpoint from being removed."""

_LEASE = "reader-{}.lease"
_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)


class ObjectStorage:
    """The checkpoints under an address.

    A large file is written to this machine's temporary folder first and then put in parts. A reader leaves a lease, an
    object with the time in it.
    """

    poll_seconds = 0.5

    def __init__(self, address: str) -> None:
        self._folder = ObjectFolder(address)

    @property
    def address(self) -> str:
        return self._folder.address

    def folders(self) -> list[str]:
        names = _patiently(self._folder.names)
        return sorted({name.partition("/")[0] for name in names if "/" in name})

    def read(self, name: str) -> bytes | None:
        return _patiently(lambda: self._folder.read(name))

    def sizes(self, folder: str) -> dict[str, int]:
        found = _patiently(lambda: self._folder.sizes(f"{folder}/"))
        return {name.removeprefix(f"{folder}/"): size for name, size in found.items()}

    def write(self, name: str, chunks: Iterator[Chunk], before_rename: Callable[[], None] = nothing) -> Written:
        staged = self._folder.staging(name)
        try:
            written = write_durably(staged, chunks)
            before_rename()
            _patiently(lambda: self._folder.publish(staged, name))
        finally:
            staged.unlink(missing_ok=True)
        return written

    def publish(self, name: str, data: bytes) -> None:
        if not _patiently(lambda: self._folder.create(name, data)):
            raise TrainError(f"{self.address}/{name}: another process has written it; give each run a checkpoint.dir")

    def withdraw(self, name: str) -> None:
        _patiently(lambda: self._folder.remove(name))

    def remove(self, folder: str) -> bool:
        names = _patiently(lambda: self._folder.names(f"{folder}/"))
        if any(self._is_leased(name) for name in names if name.endswith(".lease")):
            return False
        self.withdraw(f"{folder}/{MANIFEST_NAME}")
        _patiently(lambda: self._folder.remove(*names))
        return True

    @contextmanager
    def on_disk(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="headrace-checkpoint-") as folder:
            path = Path(folder) / Path(name).name
            if not _patiently(lambda: self._folder.download(name, path)):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.address}/{name}")
            yield path

    @contextmanager
    def held(self, folder: str) -> Iterator[None]:
        name = f"{folder}/{_LEASE.format(uuid.uuid4().hex)}"
        try:
            self._folder.write(name, repr(time.time()).encode())
        except DataError as error:  # a reader may have no right to write
            _logger.warning("%s; without a lease the checkpoint may be removed while it is read", error)
            yield
            return
        try:
            yield
        finally:
            self._end_lease(name)

    def _end_lease(self, name: str) -> None:
        try:
            self._folder.remove(name)
        except DataError as error:
            _logger.warning("%s; the lease ends by itself in %d minutes", error, LEASE_SECONDS // 60)

    def _is_leased(self, name: str) -> bool:
        written = self.read(name)
        try:
            return written is not None and time.time() - float(written) < LEASE_SECONDS
        except ValueError:  # no lease of ours
            return False


def _patiently(ask: Callable[[], _Result]) -> _Result:
    """What the store answers, asked again for `PATIENCE_SECONDS` while it fails, unless by a plain refusal."""
    deadline, wait_seconds = time.monotonic() + PATIENCE_SECONDS, FIRST_WAIT_SECONDS
    while True:
        try:
            return ask()
        except DataError as error:
            is_final = isinstance(error.__cause__, (PermissionError, FileNotFoundError))
            if is_final or time.monotonic() + wait_seconds > deadline:
                raise
            _logger.warning("%s; trying again in %.1f s", error, wait_seconds)
        time.sleep(wait_seconds)
        wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
