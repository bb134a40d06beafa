"""The attempts of a run as its journal tells of them: what each wrote, and what was written of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from monitoring.columns import Columns, Steps
from monitoring.history import WATCHERS_EVENTS, Fence
from monitoring.journal import Record, number

_ASKED_FOR = ("made_way", "preemption")  # kinds of `gang_restart` that follow a save, not a failure


@dataclass
class Attempt:
    """What one attempt's own processes wrote, by time, and what was written of it. Times in microseconds."""

    number: int
    taken: int
    steps: Steps
    counted: NDArray[np.bool_]  # of the steps
    events: list[Record] = field(default_factory=list)
    watchers: list[Record] = field(default_factory=list)

    @property
    def begin(self) -> int | None:
        """The first record of one that got as far as training."""
        starts = [microseconds_of(record) for record in self.events if record.get("event") == "start"]
        return min([*starts[:1], *times_of(self.steps)[:1].tolist()], default=None)

    @property
    def load_seconds(self) -> float:
        """What the start told of its load."""
        start = next((record for record in self.events if record.get("event") == "start"), None)
        return max(0.0, number(start, "load_seconds") or 0.0) if start is not None else 0.0

    @property
    def last(self) -> int:
        newest = [*map(microseconds_of, self.events[-1:]), *times_of(self.steps)[-1:].tolist()]
        return max(newest, default=self.taken)

    @property
    def is_heard_of(self) -> bool:
        """Whether there is any record of it."""
        return bool(len(self.steps) or self.events or self.watchers)

    @property
    def last_word(self) -> int:
        """The newest record that it wrote or that tells of it."""
        own = [self.last] if len(self.steps) or self.events else []
        return max([*own, *map(microseconds_of, self.watchers)], default=self.taken)

    @property
    def ending(self) -> str:
        """finished, stopped, failed, resize, or empty for one that broke off."""
        for record in reversed(self.events):
            if record.get("event") == "end":
                # A stop that the driver follows by a gang of its own accord is no stop: a resize, or a preemption.
                goes_on = record["status"] == "stopped" and any(w["event"] == "gang_restart" for w in self.watchers)
                return "resize" if goes_on else str(record["status"])
        if any(watcher.get("kind") in _ASKED_FOR for watcher in self.watchers):
            return "resize"
        return "failed" if any(watcher["event"] == "end" for watcher in self.watchers) else ""

    @property
    def gave_up(self) -> int:
        """When the driver gave up, for one that failed."""
        return max(microseconds_of(watcher) for watcher in self.watchers if watcher["event"] == "end")

    def word_of_failure(self) -> Record | None:
        """The event that tells of its end: a rank's death, else the restart of the gang."""
        by_name = {record["event"]: record for record in reversed(self.watchers)}
        return by_name.get("rank_dead") or by_name.get("hang") or by_name.get("fenced") or by_name.get("gang_restart")


def microseconds_of(record: Record) -> int:
    """When it was written."""
    return round(float(record["time"]) * 1e6)


def times_of(steps: Steps) -> NDArray[np.int64]:
    """When each was written."""
    return whole_microseconds(steps["time"])


def whole_microseconds(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Seconds as microseconds; NaN and less than nothing is nothing."""
    whole: NDArray[np.int64] = np.rint(np.fmax(seconds, 0.0) * 1e6).astype(np.int64)  # of NaN and 0, fmax takes 0
    return whole


def attempts_of(columns: Columns, counted: NDArray[np.bool_], fence: Fence) -> list[Attempt]:
    """The attempts in order, with their steps (of which `counted` says which count) and events."""
    steps = columns.steps
    events = sorted(columns.events, key=lambda record: float(record["time"]))
    numbers = {*fence.taken, *np.unique(steps["attempt"]).tolist(), *(record["attempt"] for record in events)}
    found = {}
    for n in sorted(numbers):
        own_steps, own_counted = _own_steps(steps, counted, n)
        times = [
            *(microseconds_of(record) for record in events if record["attempt"] == n),
            *times_of(own_steps[:1]).tolist(),
        ]
        taken = round(fence.taken[n] * 1e6) if n in fence.taken else min(times)
        found[n] = Attempt(n, taken, own_steps, own_counted)
    for record in events:
        attempt = found[record["attempt"]]
        (attempt.watchers if _is_of_watchers(record) else attempt.events).append(record)
    return list(found.values())


def _own_steps(steps: Steps, counted: NDArray[np.bool_], attempt: int) -> tuple[Steps, NDArray[np.bool_]]:
    """The steps of an attempt by time, and which of them count. Without a copy where they lie so."""
    first, end = np.searchsorted(steps["attempt"], [attempt, attempt + 1]).tolist()
    steps, counted = steps[first:end], counted[first:end]
    if np.all(steps["time"][1:] >= steps["time"][:-1]):
        return steps, counted
    order = np.argsort(steps["time"], kind="stable")
    return steps[order], counted[order]


def _is_of_watchers(record: Record) -> bool:
    """Whether a supervisor or the driver wrote it; the driver writes the end of a run that failed."""
    return record.get("event") in WATCHERS_EVENTS or (record.get("event") == "end" and record["status"] == "failed")
