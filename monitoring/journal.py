"""The journal of a run: JSON lines, `OUT_DIR/journal/attempt-0001.jsonl` and on, one object a line.

Every record has `attempt` (int) and `time` (unix seconds, float). A step record has `step` and no `event`; an event
record has `event`, its name. Beside them nodes write `node-NODE.jsonl`, of events without an attempt, which only the
sender reads. Standard library only: ranks, supervisors and the sender all import it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import re
import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monitoring.errors import MonitoringError

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Positions = dict[str, int]  # name of an attempt's file -> bytes of it that were read

_ATTEMPT_FILE = re.compile(r"attempt-(\d{4,})\.jsonl")


def journal_dir(out_dir: Path) -> Path:
    """The folder of a run that holds its journal."""
    return out_dir / "journal"


def attempt_path(out_dir: Path, attempt: int) -> Path:
    """The file that attempt number `attempt` (from 1) writes."""
    return journal_dir(out_dir) / f"attempt-{attempt:04d}.jsonl"


def attempt_paths(out_dir: Path) -> list[Path]:
    """The files of all attempts that there are, in the order of the attempts."""
    folder = journal_dir(out_dir)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    numbers = sorted((int(match.group(1)), name) for name in names if (match := _ATTEMPT_FILE.fullmatch(name)))
    return [folder / name for _, name in numbers]


def node_path(out_dir: Path, node: str) -> Path:
    """The file that a node's monitor writes."""
    return journal_dir(out_dir) / f"node-{re.sub(r'[^A-Za-z0-9._-]', '_', node)}.jsonl"


def sent_paths(out_dir: Path) -> list[Path]:
    """All files that go to MLflow: those of the attempts, then those of the nodes."""
    return [*attempt_paths(out_dir), *sorted(journal_dir(out_dir).glob("node-*.jsonl"))]


def encode(record: Mapping[str, Any]) -> bytes:
    """One line of the journal, with its line end.

    JSON has no NaN and no infinity: such a value becomes null, and KEY_hex (`float.hex`: "nan", "inf", "-inf")
    is added beside a top-level KEY where the record does not hold one, so that `number` gives the value back.
    """
    hexes = {
        f"{key}_hex": value.hex() for key, value in record.items() if isinstance(value, float) and not _finite(value)
    }
    whole = {**hexes, **record}
    return json.dumps(without_nonfinite(whole), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def without_nonfinite(value: Any) -> Any:
    """The value as JSON takes it: NaN and infinities, at any depth, become None; tuples become lists."""
    if isinstance(value, float):
        return value if _finite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nonfinite(item) for item in value]
    return value


def number(record: Mapping[str, Any], key: str) -> float | None:
    """The number under `key`, with NaN and infinities restored; None if there is none."""
    value = record.get(key)
    if value is None and isinstance(record.get(f"{key}_hex"), str):
        return float.fromhex(record[f"{key}_hex"])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


class FileJournal:
    """Appends records to a file, a line in one write. Not for several threads.

    What a full or broken disk does not take stays in memory and goes with the next write; that is said once.
    """

    def __init__(self, path: Path) -> None:
        """Opens `path` for appending; makes it and its folder if absent; drops the torn last line of a dead writer."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        _drop_torn_line(self._fd)
        self._path = path
        self._waiting = bytearray()
        self._is_told = False

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one record, after those that wait."""
        self._waiting += encode(record)
        self._send()

    def _send(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: os.write(self._fd, self._waiting)]
        except OSError as error:
            if not self._is_told:
                logger.warning("%s cannot be written now (%s); its records wait in memory", self._path, error.strerror)
            self._is_told = True

    def close(self) -> None:
        """Closes the file; says so if something could not be written to the last."""
        self._send()
        if self._waiting:
            logger.error("%s: its last %d bytes could not be written and are lost", self._path, len(self._waiting))
        os.close(self._fd)


class PipeJournal:
    """Sends records down a pipe and never waits: what does not fit stays in memory and goes with the next write.

    A training step must not stop because a reader is slow. Not for several threads.
    """

    def __init__(self, fd: int) -> None:
        """Takes over `fd`, the writing end of a pipe."""
        os.set_blocking(fd, False)
        self._fd = fd
        self._waiting = bytearray()

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds one record and sends what fits; BrokenPipeError if the reader is gone."""
        self._waiting += encode(record)
        self._send()

    def close(self, deadline_seconds: float = 5.0) -> bool:
        """Sends what waits, for at most `deadline_seconds`, and closes the pipe; False if something was left."""
        deadline = time.monotonic() + deadline_seconds
        while self._waiting and (left := deadline - time.monotonic()) > 0:
            select.select([], [self._fd], [], left)
            self._send()
        os.close(self._fd)
        return not self._waiting

    def _send(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: os.write(self._fd, self._waiting)]
        except BlockingIOError:
            return  # the pipe is full: the rest goes with the next write


class JournalReader:
    """Reads on in the journal of a run: whole lines of all attempts, each once."""

    def __init__(
        self,
        out_dir: Path,
        positions: Mapping[str, int] | None = None,
        paths: Callable[[Path], Sequence[Path]] = attempt_paths,
    ) -> None:
        """Starts at the beginning, or where `positions` (of an earlier reader) says. paths: the files it reads."""
        self._out_dir = out_dir
        self._paths = paths
        self._positions: Positions = dict(positions or {})

    @property
    def positions(self) -> Positions:
        """How far each attempt's file was read, in bytes."""
        return dict(self._positions)

    def poll(self, limit_bytes: int | None = None) -> list[Record]:
        """The records that are new since the last call, attempt by attempt; about `limit_bytes` of them at most.

        A line that has no end yet is left for a later call. MonitoringError if a whole line is no JSON object.
        """
        records: list[Record] = []
        room = limit_bytes if limit_bytes is not None else math.inf
        for path in self._paths(self._out_dir):
            if room <= 0:
                break
            start = self._positions.get(path.name, 0)
            for end, record in _whole_lines(path, start):
                self._positions[path.name] = end
                records.append(record)
                if end - start >= room:
                    break
            room -= self._positions.get(path.name, 0) - start
        return records


def read_records(out_dir: Path) -> Iterator[Record]:
    """All records of a run in the order of its attempts; an attempt's torn last line is left out.

    MonitoringError if a whole line is no JSON object.
    """
    for path in attempt_paths(out_dir):
        for _, record in _whole_lines(path, 0):
            yield record


def records_between(out_dir: Path, start: Mapping[str, int], end: Mapping[str, int]) -> Iterator[Record]:
    """The records from the positions `start` to the positions `end` of a `JournalReader`, file by file."""
    for path in sent_paths(out_dir):
        for line_end, record in _whole_lines(path, start.get(path.name, 0)):
            if line_end > end.get(path.name, 0):
                break
            yield record


def is_step(record: Mapping[str, Any]) -> bool:
    """Whether a record is that of a training step."""
    return "event" not in record and "step" in record


def last_values(records: Iterable[Record]) -> dict[int, Record]:
    """The steps that count, by step: each as the latest attempt ran it (the last time within the attempt).

    A step that a later attempt did not build upon does not count: one above the step from which that attempt went on
    (`resumed_step` of its start, or of a `bad_numbers` event that goes back within an attempt). It may be missing
    then, until it is run again.
    """
    steps: dict[int, Record] = {}
    resumed: dict[int, int] = {}
    for record in records:
        if is_step(record):
            kept = steps.get(record["step"])
            if kept is None or record["attempt"] >= kept["attempt"]:
                steps[record["step"]] = record
        elif record.get("event") == "start":
            resumed[record["attempt"]] = record.get("resumed_step", 0)
        elif record.get("event") == "bad_numbers" and "resumed_step" in record:
            steps = {n: kept for n, kept in steps.items() if n <= record["resumed_step"]}
    return {n: record for n, record in sorted(steps.items()) if not _is_undone(record, resumed)}


def _is_undone(record: Record, resumed: Mapping[int, int]) -> bool:
    later = (step for attempt, step in resumed.items() if attempt > record["attempt"])
    return bool(record["step"] > min(later, default=record["step"]))


@contextmanager
def sender_lock(out_dir: Path) -> Iterator[bool]:
    """Whether this process is the only one that sends this run, while the context lasts."""
    folder = journal_dir(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".sender.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _whole_lines(path: Path, start: int) -> Iterator[tuple[int, Record]]:
    """(end of the line in bytes, its record) from byte `start` on."""
    with path.open("rb") as file:
        file.seek(start)
        end = start
        for line in file:
            if not line.endswith(b"\n"):
                return
            record = _parse(line, path, end)
            end += len(line)
            yield end, record


def _parse(line: bytes, path: Path, start: int) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise _broken(line, path, start, str(error)) from error
    if not isinstance(record, dict):
        raise _broken(line, path, start, f"a {type(record).__name__}")
    return record


def _broken(line: bytes, path: Path, start: int, found: str) -> MonitoringError:
    number_of_line = path.read_bytes()[:start].count(b"\n") + 1
    return MonitoringError(
        f"{path}, line {number_of_line}: every line of a journal must be a JSON object, found {line[:60]!r} ({found}); "
        f"remove the line if the file was edited, else the disk lost data"
    )


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _drop_torn_line(fd: int) -> None:
    """Cuts the file after its last line end, so that the next record does not join a torn one."""
    size = os.fstat(fd).st_size
    end = size
    while end > 0:
        start = max(0, end - 65_536)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)
