"""A journal as columns: an array with a row for each step record, and the events. Pure.

It says of a run what its records say, a hundred times as fast to compute with: `monitoring.journal.last_values` and
`monitoring.history.believed` have their twins here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from monitoring.history import Fence
from monitoring.journal import Record, is_step, number

HASH_DIGITS = 13
FLOATS = ("loss", "tokens_per_second", "mfu", "step_seconds", "data_wait_seconds")

STEP = np.dtype(
    [
        *((name, np.int64) for name in ("attempt", "line", "step", "tokens")),
        ("time", np.float64),
        *((name, np.float64) for name in FLOATS),
        ("sequence_hash", np.uint64),
    ]
)
"""A step record. line: its number among the records of its attempt, from 0. Floats that a record lacks are NaN; a
sequence hash counts by its first 13 hex digits (all that MLflow's metric of it holds), 0 where there is none."""

Steps: TypeAlias = NDArray[np.void]  # [n] of STEP
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Columns:
    """The records of a run. Both parts are in the order of the attempts, and within one in that of their lines."""

    steps: Steps
    events: tuple[Record, ...]
    event_lines: tuple[int, ...]  # the place of each event among the records of its attempt

    def __len__(self) -> int:
        return len(self.steps) + len(self.events)

    def of(self, event: str) -> list[Record]:
        """The events of that name."""
        return [record for record in self.events if record.get("event") == event]


def columns_of(records: Iterable[Record]) -> Columns:
    """The records as columns, in the order in which they come within each attempt."""
    lines: dict[int, int] = {}
    rows: list[tuple[Any, ...]] = []
    events: list[Record] = []
    event_lines: list[int] = []
    for record in records:
        line = lines.get(record["attempt"], 0)
        lines[record["attempt"]] = line + 1
        if is_step(record):
            rows.append(_row(record, line))
        else:
            events.append(record)
            event_lines.append(line)
    return joined(np.array(rows, STEP), events, event_lines)


def joined(steps: Steps, events: Sequence[Record], event_lines: Sequence[int]) -> Columns:
    """The parts in the order that `Columns` promises."""
    if len(steps) and np.any(np.diff(steps["attempt"]) < 0):
        steps = steps[np.argsort(steps["attempt"], kind="stable")]
    order = sorted(range(len(events)), key=lambda index: (events[index]["attempt"], event_lines[index]))
    return Columns(steps, tuple(events[i] for i in order), tuple(event_lines[i] for i in order))


def believed_columns(columns: Columns, fence: Fence) -> Columns:
    """The columns without what an attempt wrote after a newer one had taken its number."""
    if not fence.taken:
        return columns
    keep = [fence.lets_pass(record) for record in columns.events]
    return Columns(
        columns.steps[_passing(columns.steps, fence)],
        tuple(record for record, kept in zip(columns.events, keep, strict=True) if kept),
        tuple(line for line, kept in zip(columns.event_lines, keep, strict=True) if kept),
    )


def _passing(steps: Steps, fence: Fence) -> Mask:
    passing = np.ones(len(steps), np.bool_)
    for attempt, time in fence.taken.items():
        is_late = (steps["attempt"] < attempt) & (steps["time"] >= time)
        passing &= ~(is_late & (steps["step"] > fence.resumed.get(attempt, 0)))
    return passing


def counted_steps(columns: Columns) -> tuple[Steps, Mask]:
    """The steps that count, by step: those that `last_values` gives of the same records; and which rows they are."""
    steps, undone = columns.steps, _undone(columns)
    number = steps["step"]
    if not undone.any() and np.all(number[1:] > number[:-1]):  # of most runs; the copy would take longest
        return steps, ~undone
    rows = _last_rows(number, np.flatnonzero(~undone))
    counted = np.zeros(len(steps), np.bool_)
    counted[rows] = True
    return steps[rows], counted


def _last_rows(number: NDArray[np.int64], rows: NDArray[np.intp]) -> NDArray[np.intp]:
    # The last row of each step: of equal values `unique` gives the first, so it looks at them backwards.
    _, backwards = np.unique(number[rows][::-1], return_index=True)
    last: NDArray[np.intp] = rows[len(rows) - 1 - backwards]
    return last


def _undone(columns: Columns) -> Mask:
    """Which rows a later attempt, or the same one after bad numbers, did not build upon."""
    steps = columns.steps
    undone = np.zeros(len(steps), np.bool_)
    resumed: dict[int, int] = {}
    for event, line in zip(columns.events, columns.event_lines, strict=True):
        attempt = event["attempt"]
        if event.get("event") == "start":
            resumed[attempt] = event.get("resumed_step", 0)
        elif event.get("event") == "bad_numbers" and "resumed_step" in event:
            before = (steps["attempt"] < attempt) | ((steps["attempt"] == attempt) & (steps["line"] < line))
            undone |= before & (steps["step"] > event["resumed_step"])
    oldest = int(steps["attempt"][0]) if len(steps) else 0
    for attempt, step in resumed.items():
        if attempt <= oldest:
            continue
        undone |= (steps["attempt"] < attempt) & (steps["step"] > step)
    return undone


def values(steps: Steps, name: str) -> NDArray[np.float64]:
    """A column of floats without the records that lack it (or hold NaN)."""
    column: NDArray[np.float64] = steps[name]
    return column[~np.isnan(column)]


def hash_number(text: object) -> int:
    """A sequence hash (hex digits) as a number: its first 13 digits; 0 for none."""
    return int(text[:HASH_DIGITS], 16) if isinstance(text, str) and text else 0


def _row(record: Mapping[str, Any], line: int) -> tuple[Any, ...]:
    floats = (number(record, name) for name in FLOATS)
    return (
        record["attempt"],
        line,
        record["step"],
        record.get("tokens", 0),
        record["time"],
        *(math.nan if value is None else value for value in floats),
        hash_number(record.get("sequence_hash")),
    )
