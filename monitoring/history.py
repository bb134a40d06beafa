"""What of a journal is believed, where an attempt that was given up goes on writing. Pure, but for `read_fence`.

A process that nobody could reach to end it (stopped, or on a machine that was cut off) may write into its attempt's
file long after a newer attempt began. Steps need no clock: `monitoring.journal.last_values` leaves out what a later
attempt did not build upon. Everything else goes by the time at which the newer attempt's number was taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monitoring.journal import Record

# Written by supervisors and the driver, often into the file of the attempt that has just ended.
WATCHERS_EVENTS = frozenset({"rank_dead", "hang", "restart", "gang_restart", "resize", "fenced", "queued"})
# Of no attempt at all, and true whoever drives the run.
_NODES_EVENT = "system"

_TAKEN_FILE = re.compile(r"(\d{4,})\.json")
_RESUMED_FILE = re.compile(r"(\d{4,})\.resumed\.json")


@dataclass(frozen=True)
class Fence:
    """When each attempt's number was taken (unix seconds), and the step that it went on from, where that is known."""

    taken: Mapping[int, float] = field(default_factory=dict)
    resumed: Mapping[int, int] = field(default_factory=dict)

    def lets_pass(self, record: Record) -> bool:
        """Whether a record was written by an attempt that was the newest then.

        A step that the newer attempt went on from passes in any case: clocks of two machines may differ.
        """
        if record.get("event") in WATCHERS_EVENTS or record.get("event") == _NODES_EVENT:
            return True
        newer = [attempt for attempt, time in self.taken.items() if self._outran(attempt, time, record)]
        return not newer

    def _outran(self, attempt: int, time: float, record: Record) -> bool:
        if attempt <= record["attempt"] or record["time"] < time:
            return False
        return bool(record.get("step", 1) > self.resumed.get(attempt, 0))


def believed(records: Iterable[Record], fence: Fence) -> list[Record]:
    """The records without what an attempt wrote after a newer one had taken its number, in the same order."""
    return [record for record in records if fence.lets_pass(record)]


def read_fence(out_dir: Path) -> Fence:
    """The fence of a run, from OUT_DIR/attempts: NNNN.json ({"time"}) and NNNN.resumed.json ({"step"}).

    A file whose writer died, or is about to write into it, counts by its date.
    """
    taken: dict[int, float] = {}
    resumed: dict[int, int] = {}
    folder = out_dir / "attempts"
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := _TAKEN_FILE.fullmatch(path.name):
            time = _number(path, "time")
            taken[int(match[1])] = path.stat().st_mtime if time is None else time
        elif (match := _RESUMED_FILE.fullmatch(path.name)) and (step := _number(path, "step")) is not None:
            resumed[int(match[1])] = int(step)
    return Fence(taken, resumed)


def _number(path: Path, key: str) -> float | None:
    """The number under `key`; None in a file that is not whole."""
    try:
        value = json.loads(path.read_text())[key]
    except (ValueError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, int | float) else None
