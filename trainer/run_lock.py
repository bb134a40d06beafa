"""One driver at a time for a run.

Two guards. The kernel's lock on a file goes with its process and holds on one machine, and between machines where the
file system carries it (NFS since version 4; not every FUSE or cluster file system). The lease holds between machines
whatever the file system is: its driver writes it anew every two seconds, and one on another machine that finds it
watches for ten seconds whether it is. Clocks of machines are not compared. A driver that stands still for longer than
that can lose its run to another; the numbers of attempts then fence off what it writes.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from trainer.errors import TrainError

logger = logging.getLogger(__name__)

LOCK_FILE = ".driver.lock"
LEASE_FILE = ".driver.json"
BEAT_SECONDS = 2.0
WATCH_SECONDS = 10.0
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Lease:
    """Who drives the run: host, process and start (a date in UTC); beats: counted while it does."""

    host: str
    pid: int
    started: str
    beats: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started}"


def read_lease(out_dir: Path) -> Lease | None:
    """Who drives the run, or did so until it was killed; None if the last one ended in peace."""
    try:
        return Lease(**json.loads((out_dir / LEASE_FILE).read_text()))
    except FileNotFoundError:
        return None


@contextmanager
def run_lock(out_dir: Path) -> Iterator[None]:
    """Hold a run's folder for one driver; the lock goes with the process.

    Raises:
        TrainError: another one holds it; the message names its host, process and start.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    with (out_dir / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _refusal(out_dir, read_lease(out_dir)) from error
        _watch_others(out_dir)
        started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        with _beating(out_dir, Lease(socket.gethostname(), os.getpid(), started)):
            yield


def _refusal(out_dir: Path, holder: Lease | None) -> TrainError:
    return TrainError(
        f"{out_dir}: a run has one driver at a time, since two would write the same checkpoints; this one is driven by "
        f"{holder or 'another process'}. Wait for it or stop it, or give another out_dir."
    )


def _watch_others(out_dir: Path) -> None:
    """Refuse if a driver on another machine still writes its lease; one of this machine would hold the lock."""
    found = read_lease(out_dir)
    if found is None or found.host == socket.gethostname():
        return
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        now = read_lease(out_dir)
        if now is None:
            return
        if now != found:
            raise _refusal(out_dir, now)


@contextmanager
def _beating(out_dir: Path, lease: Lease) -> Iterator[None]:
    """Write the lease again and again from a thread, for the length of the block, and take it away.

    A full disk or storage that fails does not end a run: until it is well again the lease is as it was.
    """
    ended = threading.Event()

    def beat() -> None:
        beats, is_well = 0, True
        while not ended.wait(BEAT_SECONDS):
            beats += 1
            is_well = _write_lease(out_dir, replace(lease, beats=beats), is_well)

    _write_lease(out_dir, lease, is_well=True)
    thread = threading.Thread(target=beat, name="driver-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _take_away(out_dir)


def _take_away(out_dir: Path) -> None:
    try:
        (out_dir / LEASE_FILE).unlink(missing_ok=True)
    except OSError as error:  # the run's own end is what is to be told
        logger.warning("%s: the lease of this driver cannot be taken away: %s", out_dir, error)


def _write_lease(out_dir: Path, lease: Lease, is_well: bool) -> bool:
    """Whether it could be written. is_well: it could before, so that a failure is news."""
    draft = out_dir / f"{LEASE_FILE}-{lease.host}-{lease.pid}"
    try:
        draft.write_text(json.dumps(asdict(lease)))
        draft.replace(out_dir / LEASE_FILE)
    except OSError as error:
        if is_well:
            logger.warning("%s: the lease of this driver cannot be written now: %s", out_dir, error)
        return False
    return True
