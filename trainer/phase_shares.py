"""From the trace of a few steps to the shares of their time. Pure: events in, seconds out.

A step's time is divided by the marks that `trainer.profiling` leaves: data, forward, backward, optimizer, and the rest.
Of each, the time in which nothing but communication went on is taken away and is a share of its own; communication
that is hidden behind computation counts as computation. Where the trace has a GPU's kernels, both are read off them,
else off the operators of the process and gloo's own marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PHASES = ("data", "forward", "backward", "optimizer")
MARK = "headrace "
ROWS = (*PHASES[:3], "communication", "optimizer", "other")

_STEP = "ProfilerStep#"
_COMMUNICATION = ("gloo:", "nccl", "c10d::")

Event = Mapping[str, Any]
Interval = tuple[float, float]


@dataclass(frozen=True)
class StepShares:
    """One rank's mean step: seconds by row of the table, which sum to step_seconds."""

    steps: int
    step_seconds: float
    seconds: Mapping[str, float]


def shares(events: Iterable[Event]) -> StepShares:
    """The shares in a Chrome trace's events, whose times are microseconds.

    Raises:
        ValueError: there is no step in it.
    """
    events = [event for event in events if event.get("ph") == "X"]
    # Marks are on the processor; a GPU has copies of them with other times.
    marks = [event for event in events if event.get("cat") == "user_annotation"]
    steps = _union(_interval(event) for event in marks if event["name"].startswith(_STEP))
    if not steps:
        raise ValueError("the trace has no step")
    number = sum(event["name"].startswith(_STEP) for event in marks)
    communication, computation = _device_work(events)
    exposed = _minus(communication, computation)
    seconds, left = {}, steps
    for phase in PHASES:
        spans = _both(_union(_interval(event) for event in marks if event["name"] == MARK + phase), steps)
        seconds[phase] = _length(_minus(spans, exposed))
        left = _minus(left, spans)
    seconds["communication"] = _length(_both(exposed, steps))
    seconds["other"] = _length(_minus(left, exposed))
    per_step = {row: seconds[row] / number / 1e6 for row in ROWS}
    return StepShares(number, _length(steps) / number / 1e6, per_step)


def mean_shares(ranks: Sequence[StepShares]) -> StepShares:
    """The mean over ranks, of which there is at least one."""
    seconds = {row: sum(rank.seconds[row] for rank in ranks) / len(ranks) for row in ROWS}
    return StepShares(ranks[0].steps, sum(rank.step_seconds for rank in ranks) / len(ranks), seconds)


def _device_work(events: Sequence[Event]) -> tuple[list[Interval], list[Interval]]:
    """When there was communication, and when there was computation."""
    on_gpu = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    ran = on_gpu or [event for event in events if event.get("cat") in ("cpu_op", "user_annotation")]
    told = [event for event in ran if event["name"].startswith(_COMMUNICATION)]
    own = [event for event in ran if event["cat"] != "user_annotation" and not event["name"].startswith(_COMMUNICATION)]
    return _union(map(_interval, told)), _union(map(_interval, own))


def _interval(event: Event) -> Interval:
    start = float(event["ts"])
    return start, start + float(event["dur"])


def _union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time in intervals that rise and do not touch."""
    joined: list[Interval] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        elif end > start:
            joined.append((start, end))
    return joined


def _both(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    """The time that is in both; each is as `_union` gives it."""
    found: list[Interval] = []
    i = j = 0
    while i < len(first) and j < len(second):
        start, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if start < end:
            found.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return found


def _minus(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    """The time of the first that is not in the second."""
    if not first:
        return []
    starts = [first[0][0], *(end for _, end in second)]
    ends = [*(start for start, _ in second), first[-1][1]]
    return _both(first, [(start, end) for start, end in zip(starts, ends, strict=True) if start < end])


def _length(intervals: Iterable[Interval]) -> float:
    return sum(end - start for start, end in intervals)
