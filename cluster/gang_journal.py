"""The run's journal as rank 0's supervisor writes it: the rank's records from a pipe, and events of its own."""

import fcntl
import json
import logging
import os
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cluster.policy import Death

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
CLOSE_SECONDS = 10.0
"""How long the end waits for a storage that does not take the last lines."""

_PIPE_BYTES = 1 << 20


def journal_path(out_dir: Path, attempt: int) -> Path:
    """The file that an attempt's journal is written to, as `monitoring.journal` reads it."""
    return out_dir / "journal" / f"attempt-{attempt:04d}.jsonl"


def append_event(out_dir: Path, attempt: int, event: str, **fields: Any) -> None:
    """Append one event to the attempt's journal, as a whole line."""
    _append(journal_path(out_dir, attempt), _line(attempt, event, fields))


class GangJournal:
    """The journal of rank 0's supervisor, written by a thread of its own, in the order of the calls.

    A storage that stalls or is full so holds up neither pings nor the watch over the rank; what it does not take is
    tried again.
    """

    def __init__(self, out_dir: Path) -> None:
        self._out_dir = out_dir
        self._pipe: JournalPipe | None = None
        self._lines: SimpleQueue[tuple[Path, bytes] | None] = SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    @property
    def pipe(self) -> "JournalPipe | None":
        """The pipe from the rank of the present attempt; readable when `transfer` has something to do."""
        return self._pipe

    def open_pipe(self, attempt: int) -> "JournalPipe":
        """A new pipe, for the rank of this attempt."""
        self._pipe = JournalPipe(self._out_dir, attempt, self._lines)
        return self._pipe

    def close_pipe(self) -> None:
        """Take what is left in the pipe, and close it."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def event(self, attempt: int, event: str, **fields: Any) -> None:
        """Append an event to the attempt's journal, after all that its rank has sent."""
        if self._pipe is not None:
            self._pipe.transfer()
        self._lines.put((journal_path(self._out_dir, attempt), _line(attempt, event, fields)))

    def death(self, attempt: int, death: Death) -> None:
        """Append `rank_dead` to the journal of the attempt in which it happened."""
        names = ("rank", "node", "kind", "reason", "step", "phase", "exit_code", "signal", "detected_seconds")
        self.event(
            attempt, "rank_dead", **{name: value for name in names if (value := getattr(death, name)) is not None}
        )

    def close(self) -> None:
        """Write what is left; lines that the storage does not take within CLOSE_SECONDS are lost, with a warning."""
        self.close_pipe()
        self._closing.set()
        self._lines.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning("%s does not take the last lines of the journal", self._out_dir)

    def _write(self) -> None:
        while (item := self._lines.get()) is not None:
            self._write_surely(*item)

    def _write_surely(self, path: Path, data: bytes) -> None:
        warned = False
        while True:
            try:
                _append(path, data)
            except OSError as error:
                if not warned:
                    logger.warning("the journal waits: %s: %s", path, error)
                if self._closing.wait(RETRY_SECONDS):
                    logger.warning("%d bytes of the journal are lost: %s: %s", len(data), path, error)
                    return
                warned = True
            else:
                return


class JournalPipe:
    """The pipe from rank 0 to its journal file; only whole lines are passed on, in the order they came."""

    def __init__(self, out_dir: Path, attempt: int, lines: "SimpleQueue[tuple[Path, bytes] | None]") -> None:
        self._path = journal_path(out_dir, attempt)
        self._lines = lines
        self._read_fd, self.write_fd = os.pipe()
        fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        # The flag is the pipe end's, not the descriptor's: the rank gets a write end that never blocks.
        os.set_blocking(self.write_fd, False)
        os.set_blocking(self._read_fd, False)
        self._partial = b""
        self._closed = False

    def fileno(self) -> int:
        return self._read_fd

    def transfer(self) -> bool:
        """Pass on what has come; False at the end of the stream. Never waits."""
        chunks = []
        while chunk := self._read():
            chunks.append(chunk)
        *lines, self._partial = (self._partial + b"".join(chunks)).split(b"\n")
        if lines and not self._closed:
            self._lines.put((self._path, b"\n".join(lines) + b"\n"))
        return chunk is None

    def discard(self) -> None:
        """Believe nothing of what comes from now on."""
        self._closed = True

    def close(self) -> None:
        """Pass on what is left and close; a line that the rank did not end is dropped."""
        self.transfer()
        os.close(self._read_fd)

    def _read(self) -> bytes | None:
        """What is in the pipe; None if nothing is, empty at the end of the stream."""
        try:
            return os.read(self._read_fd, _PIPE_BYTES)
        except BlockingIOError:
            return None


def _line(attempt: int, event: str, fields: dict[str, Any]) -> bytes:
    return json.dumps({"event": event, "attempt": attempt, "time": time.time(), **fields}).encode() + b"\n"


def _append(path: Path, data: bytes) -> None:
    """Append whole lines, all or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            # A writer that was killed left a torn line: it must not swallow the next one.
            size = os.pread(fd, size, 0).rfind(b"\n") + 1
            os.ftruncate(fd, size)
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError:
            os.ftruncate(fd, size)  # the disk is full: what was cut short will come again
            raise
    finally:
        os.close(fd)
