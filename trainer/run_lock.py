"""One driver at a time for a run."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import TrainError

LOCK_FILE = ".driver.lock"


@contextmanager
def run_lock(out_dir: Path) -> Iterator[None]:
    """Hold a run's folder for one driver; the lock goes with the process.

    Raises:
        TrainError: another one holds it; the message names its host and process.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    with (out_dir / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise TrainError(
                f"{out_dir}: a run has one driver at a time, since two would write the same checkpoints; this one is "
                f"driven by {holder}. Wait for it or stop it, or give another out_dir."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
