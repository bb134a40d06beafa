"""The run's journal as rank 0's supervisor writes it: the rank's records from a pipe, and events of its own."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from cluster.policy import Death

_PIPE_BYTES = 1 << 20


def journal_path(out_dir: Path, attempt: int) -> Path:
    """The file that an attempt's journal is written to, as `monitoring.journal` reads it."""
    return out_dir / "journal" / f"attempt-{attempt:04d}.jsonl"


def append_event(out_dir: Path, attempt: int, event: str, **fields: Any) -> None:
    """Append one event to the attempt's journal, as a whole line."""
    record = {"event": event, "attempt": attempt, "time": time.time(), **fields}
    _append(journal_path(out_dir, attempt), json.dumps(record).encode() + b"\n")


def append_death(out_dir: Path, attempt: int, death: Death) -> None:
    """Append `rank_dead` to the journal of the attempt in which it happened."""
    fields = {"exit_code": death.exit_code, "signal": death.signal}
    told = {key: value for key, value in fields.items() if value is not None}
    place = {"rank": death.rank, "node": death.node, "reason": death.reason, "step": death.step}
    append_event(out_dir, attempt, "rank_dead", **place, **told)


class JournalPipe:
    """The pipe from rank 0 to its journal file; only whole lines are appended, in the order they came."""

    def __init__(self, out_dir: Path, attempt: int) -> None:
        self._path = journal_path(out_dir, attempt)
        self._read_fd, self.write_fd = os.pipe()
        fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        # The flag is the pipe end's, not the descriptor's: the rank gets a write end that never blocks.
        os.set_blocking(self.write_fd, False)
        os.set_blocking(self._read_fd, False)
        self._partial = b""

    def fileno(self) -> int:
        return self._read_fd

    def close_write_end(self) -> None:
        """Close our copy of the write end, after the fork."""
        os.close(self.write_fd)

    def transfer(self) -> bool:
        """Append what has come; False at the end of the stream. Never waits."""
        chunks = []
        while chunk := self._read():
            chunks.append(chunk)
        *lines, self._partial = (self._partial + b"".join(chunks)).split(b"\n")
        if lines:
            _append(self._path, b"\n".join(lines) + b"\n")
        return chunk is None

    def close(self) -> None:
        """Append what is left and close; a line that the rank did not end is dropped."""
        self.transfer()
        os.close(self._read_fd)

    def _read(self) -> bytes | None:
        """What is in the pipe; None if nothing is, empty at the end of the stream."""
        try:
            return os.read(self._read_fd, _PIPE_BYTES)
        except BlockingIOError:
            return None


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            # A full disk cut the last write short: what is torn must not swallow the next line.
            os.ftruncate(fd, os.pread(fd, size, 0).rfind(b"\n") + 1)
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
