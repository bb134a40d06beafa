"""Reads the journal of a run as columns, fast, and keeps them beside it for the next time.

`OUT_DIR/journal/columns.bin` holds what was read of each attempt's file, whole lines only, which do not change any
more: a line of JSON (version, type of a row, bytes read of each file with a checksum of the last of them, the events),
then the array. What does not fit the journal any more is read anew. A folder that cannot be written stays without it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from monitoring.columns import FLOATS, HASH_DIGITS, STEP, Columns, Steps, columns_of, joined
from monitoring.errors import MonitoringError
from monitoring.journal import Record, attempt_paths, journal_dir, records_between

logger = logging.getLogger(__name__)

_VERSION = 1
_TAIL_BYTES = 256  # of what was read of a file: they tell whether it is still the same file
_WORTH_KEEPING_BYTES = 64 * 1024
_EVENT = re.compile(rb'"event"\s*:')


class _Line(msgspec.Struct, gc=False):
    """What the columns take of a line, whichever it is."""

    attempt: int
    time: float
    event: str | None = None
    step: int | None = None
    tokens: int | None = None
    loss: float | None = None
    loss_hex: str | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    step_seconds: float | None = None
    data_wait_seconds: float | None = None
    sequence_hash: str | None = None


_DECODER = msgspec.json.Decoder(_Line)


@dataclass(frozen=True)
class _Part:
    """What was read of one attempt's file."""

    steps: Steps
    events: Sequence[Record]
    event_lines: Sequence[int]


@dataclass(frozen=True)
class _Kept:
    """What `columns.bin` holds."""

    files: Mapping[str, tuple[int, int, int]]  # name -> bytes, lines and checksum of their end
    columns: Columns


_NOTHING = _Kept({}, Columns(np.empty(0, STEP), (), ()))


def read_columns(out_dir: Path, keep: bool = True) -> Columns:
    """The journal of a run as columns; what is new since it was last read is all that is parsed.

    keep: write `columns.bin` where that saves something. MonitoringError if a whole line is no JSON object.
    """
    paths = attempt_paths(out_dir)
    kept = _read_kept(out_dir, paths)
    files, parts = dict(kept.files), []
    for path in paths:
        start, line, _ = files.get(path.name, (0, 0, 0))
        data = _whole_lines_from(path, start)
        if data:
            parts.append(_parse(out_dir, path, data, start, line))
            lines = line + len(parts[-1].steps) + len(parts[-1].events)
            files[path.name] = (start + len(data), lines, 0)
    if not parts:
        return kept.columns
    columns = joined(
        np.concatenate([kept.columns.steps, *(part.steps for part in parts)]),
        [*kept.columns.events, *(event for part in parts for event in part.events)],
        [*kept.columns.event_lines, *(line for part in parts for line in part.event_lines)],
    )
    new_bytes = sum(size for size, _, _ in files.values()) - sum(size for size, _, _ in kept.files.values())
    if keep and new_bytes >= _WORTH_KEEPING_BYTES:
        _write_kept(out_dir, _Kept({path.name: _marked(path, files) for path in paths if path.name in files}, columns))
    return columns


def _whole_lines_from(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    return data[: data.rfind(b"\n") + 1]


def _parse(out_dir: Path, path: Path, data: bytes, start: int, line: int) -> _Part:
    try:
        lines = _DECODER.decode_lines(data)
    except msgspec.MsgspecError:
        # Not as ranks write it: read line by line, which names what is no JSON object at all.
        records = records_between(out_dir, _only(out_dir, path, start), {path.name: start + len(data)})
        slow = columns_of(records)
        steps = slow.steps.copy()
        steps["line"] += line
        return _Part(steps, slow.events, [n + line for n in slow.event_lines])
    is_step = [found.event is None and found.step is not None for found in lines]
    numbers = [index for index, is_one in enumerate(is_step) if not is_one]
    events = list(_events(data)) if numbers else []
    if len(events) != len(numbers):  # some record has neither a step nor a name
        every = data.splitlines()
        events = [json.loads(every[index]) for index in numbers]
    return _Part(_steps(lines, is_step, line), events, [index + line for index in numbers])


def _only(out_dir: Path, path: Path, start: int) -> dict[str, int]:
    """Positions at which a reader sees the rest of one file alone."""
    sizes = {other.name: other.stat().st_size for other in attempt_paths(out_dir)}
    return {**sizes, path.name: start}


def _events(data: bytes) -> Iterator[Record]:
    """The lines that hold a key "event": within a JSON text its quotes would be escaped."""
    end = 0
    for match in _EVENT.finditer(data):
        if match.start() < end:  # of the same line
            continue
        begin, end = data.rfind(b"\n", 0, match.start()) + 1, data.find(b"\n", match.start()) + 1
        yield json.loads(data[begin:end])


def _steps(lines: Sequence[_Line], is_step: Sequence[bool], first_line: int) -> Steps:
    found = list(compress(lines, is_step))
    steps = np.empty(len(found), STEP)
    steps["line"] = np.flatnonzero(np.array(is_step, np.bool_)) + first_line
    for name in ("attempt", "step", "time"):
        steps[name] = np.fromiter(map(attrgetter(name), found), STEP[name], len(found))
    steps["tokens"] = [line.tokens or 0 for line in found]
    for name in FLOATS:
        steps[name] = np.array(list(map(attrgetter(name), found)), np.float64)  # None becomes NaN
    steps["sequence_hash"] = [int(line.sequence_hash[:HASH_DIGITS], 16) if line.sequence_hash else 0 for line in found]
    for row in np.flatnonzero(np.isnan(steps["loss"])):
        text = found[row].loss_hex
        steps["loss"][row] = math.nan if text is None else float.fromhex(text)
    return steps


def _marked(path: Path, files: Mapping[str, tuple[int, int, int]]) -> tuple[int, int, int]:
    size, lines, _ = files[path.name]
    return size, lines, _checksum(path, size)


def _checksum(path: Path, size: int) -> int:
    with path.open("rb") as file:
        file.seek(max(0, size - _TAIL_BYTES))
        return zlib.crc32(file.read(min(size, _TAIL_BYTES)))


def _read_kept(out_dir: Path, paths: Sequence[Path]) -> _Kept:
    path = journal_dir(out_dir) / "columns.bin"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return _NOTHING
    try:
        return _unpacked(data, {path.name: path for path in paths})
    except (ValueError, KeyError, TypeError, OSError) as error:
        logger.debug("%s is read no more: %s", path, error)
        return _NOTHING


def _unpacked(data: bytes, paths: Mapping[str, Path]) -> _Kept:
    """What was kept; ValueError, KeyError or TypeError if that is of another version, torn, or of another journal."""
    head_end = data.index(b"\n")
    head: dict[str, Any] = msgspec.json.decode(data[:head_end])
    if head["version"] != _VERSION or head["row"] != str(STEP):
        raise ValueError("it is of another version")
    files = {name: (size, lines, checksum) for name, (size, lines, checksum) in head["files"].items()}
    for name, (size, _, checksum) in files.items():
        if paths[name].stat().st_size < size or _checksum(paths[name], size) != checksum:
            raise ValueError(f"{name} has changed")
    steps = np.frombuffer(data, STEP, count=head["steps"], offset=head_end + 1)
    return _Kept(files, Columns(steps, tuple(head["events"]), tuple(head["event_lines"])))


def _write_kept(out_dir: Path, kept: _Kept) -> None:
    path = journal_dir(out_dir) / "columns.bin"
    head = {
        "version": _VERSION,
        "row": str(STEP),
        "files": kept.files,
        "steps": len(kept.columns.steps),
        "events": kept.columns.events,
        "event_lines": kept.columns.event_lines,
    }
    draft = path.with_name(f".columns.bin.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(json.dumps(head).encode() + b"\n")
            file.write(kept.columns.steps.tobytes())
        draft.replace(path)
    except OSError as error:
        logger.debug("%s cannot be written: %s", path, error)
        draft.unlink(missing_ok=True)


def read_journal(out_dir: Path) -> Columns:
    """As `read_columns`, of a run that has a journal; MonitoringError if there is none."""
    columns = read_columns(out_dir)
    if not len(columns):
        raise MonitoringError(f"{out_dir}: must hold a journal to be compared, found none; train the run first")
    return columns
