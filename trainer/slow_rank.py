"""Which rank keeps the others waiting. Pure: values to values."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

WINDOW = 16
"""Steps that are looked at: a rank that became slow is named when it was so in more than half of them."""
SLOW_FACTOR = 2.0
"""A rank is slow that takes longer than the others by this factor, ..."""
SLOW_SHARE = 0.2
"""... and keeps them waiting for this share of a step."""
LEVEL_FACTOR = 1.5
"""Below this factor it is slow no more."""


@dataclass(frozen=True)
class Pace:
    """The newest steps, at most WINDOW: seconds of the step, and each rank's own of it. Ranks that are slow now."""

    steps: tuple[tuple[float, tuple[float, ...]], ...] = ()
    slow: frozenset[int] = frozenset()


@dataclass(frozen=True)
class SlowRank:
    """A rank that became slow. Seconds are medians over the window, of the others the median of theirs."""

    rank: int
    seconds: float
    others_seconds: float


def watch_pace(pace: Pace, step_seconds: float, own_seconds: Sequence[float]) -> tuple[Pace, list[SlowRank]]:
    """The pace after one more step, and who became slow with it.

    A rank's own seconds are those outside collectives: in a collective all ranks wait for the slowest.
    """
    steps = (*pace.steps, (step_seconds, tuple(own_seconds)))[-WINDOW:]
    if len(steps) < WINDOW or len(own_seconds) < 2:
        return replace(pace, steps=steps), []
    whole = statistics.median_low(seconds for seconds, _ in steps)
    own = own_medians(Pace(steps))
    found, slow, ordered = [], set(pace.slow), sorted(own)
    for rank, seconds in enumerate(own):
        others = _median_without(ordered, seconds)
        if rank in slow and seconds < LEVEL_FACTOR * others:
            slow.remove(rank)
        elif rank not in slow and seconds > SLOW_FACTOR * others and seconds - others > SLOW_SHARE * whole:
            slow.add(rank)
            found.append(SlowRank(rank, seconds, others))
    return Pace(steps, frozenset(slow)), found


def own_medians(pace: Pace) -> list[float]:
    """What each rank takes of a step by itself: medians over the window; empty until it is full."""
    if len(pace.steps) < WINDOW:
        return []
    return [statistics.median_low(column) for column in zip(*(row for _, row in pace.steps), strict=True)]


def _median_without(ordered: Sequence[float], value: float) -> float:
    """The median of a sorted list of two and more without one of its values."""
    at, size = bisect_left(ordered, value), len(ordered) - 1
    low, high = ((size - 1) // 2, size // 2)
    return (ordered[low + (low >= at)] + ordered[high + (high >= at)]) / 2
