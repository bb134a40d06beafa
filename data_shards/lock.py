"""One prepare at a time in a folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_shards.errors import DataError

LOCK_FILE = ".lock"


@contextmanager
def locked(dir: Path) -> Iterator[None]:
    """Hold `dir`, made if need be, for one writer; the lock goes with the process.

    Raises DataError naming the holder if there is one, or if the folder cannot be written.
    """
    try:
        dir.mkdir(parents=True, exist_ok=True)
        file = (dir / LOCK_FILE).open("a+")
    except OSError as error:
        raise DataError(f"data.dir: {dir} cannot be written ({error.strerror}): give another data.dir") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise DataError(
                f"data.dir: {dir} is being prepared by {holder}: wait for it, or give another data.dir"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
