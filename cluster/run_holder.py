"""Who drives a run now, seen without getting in its way."""

from __future__ import annotations

import fcntl
from pathlib import Path

from trainer.run_lock import LOCK_FILE


def run_holder(out_dir: Path) -> str | None:
    """The process that holds the run's folder, in its own words; None if nobody does.

    A look takes a shared lock for a moment. On a folder whose locks do not reach other machines, a driver elsewhere
    is not seen.
    """
    try:
        file = (out_dir / LOCK_FILE).open()
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "another process"
    return None
