"""What a kill did to a run, from its step log alone. Pure.

The same for all arms: a step counts as new once its number is higher than that of every step completed by a process
that was there at the kill. A step that those processes still complete after it, because the signal came too late for
it, is one of theirs.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Step:
    """A completed optimizer step. time: unix seconds; attempt: whatever tells one start of the ranks from another."""

    step: int
    time: float
    attempt: int


@dataclass(frozen=True)
class Recovery:
    """What a kill cost. Seconds from the signal; lost_seconds: the gap from the last step before it to the first new
    one, less a step as it is without a fault; replayed_steps: completed before, and run again."""

    completed: int
    next_step_seconds: float
    new_step_seconds: float
    lost_seconds: float
    replayed_steps: int


def recovery(steps: Sequence[Step], killed: float, step_seconds: float) -> Recovery | None:
    """What became of the run after the kill at this time; None while no new step is completed.

    step_seconds: an undisturbed step. The steps are in the order in which they were logged.
    """
    before = [step for step in steps if step.time <= killed]
    if not before:
        raise ValueError(f"no step was completed before the kill at {killed}")
    theirs = {step.attempt for step in before}
    old = [step for step in steps if step.attempt in theirs]
    after = [step for step in steps if step.attempt not in theirs]
    completed = max(step.step for step in old)
    new = next((step for step in after if step.step > completed), None)
    if new is None:
        return None
    return Recovery(
        completed=completed,
        next_step_seconds=after[0].time - killed,
        new_step_seconds=new.time - killed,
        lost_seconds=max(0.0, new.time - old[-1].time - step_seconds),
        replayed_steps=max(0, completed + 1 - after[0].step),
    )


def step_seconds(steps: Sequence[Step]) -> float:
    """The median time between neighbouring steps of one attempt."""
    pairs = pairwise(steps)
    return statistics.median(
        two.time - one.time for one, two in pairs if two.step == one.step + 1 and two.attempt == one.attempt
    )


def newest(steps: Sequence[Step]) -> int:
    """The highest step so far, 0 before the first."""
    return max((step.step for step in steps), default=0)
