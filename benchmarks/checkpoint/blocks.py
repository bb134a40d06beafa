"""What a save costs, from the times at which steps ended. Pure.

A run saves every second block of steps: a block begins with a save, the next one has none, and so on. The cost of a
save is its block's time less the mean of the two quiet blocks around it, so that whatever the save does beside the
steps (copies, hashes, writes, a process of its own) counts as much as the time for which the loop stood still.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WARM_SAVES = 1
"""The first save of a run is not counted: it makes what the later ones use again, memory, threads or a process."""


@dataclass(frozen=True)
class Save:
    """One save. asked: when the step before it ended; durable: when it was safe on disk, None where it never is."""

    step: int
    asked: float
    durable: float | None


def run_steps(pairs: int, block: int) -> int:
    """Steps of a run with so many counted saves."""
    return 2 * block * (pairs + WARM_SAVES + 1)


def is_saved(step: int, block: int, steps: int) -> bool:
    """Whether a save begins after this step; none after the last."""
    return step % (2 * block) == 0 and 0 < step < steps


def save_costs(ends: Mapping[int, float], saves: Sequence[Save], block: int) -> list[float]:
    """Seconds that each counted save cost. ends: unix seconds of the end of each step."""
    costs = []
    for save in saves[WARM_SAVES:]:
        saving = ends[save.step + block] - ends[save.step]
        before = ends[save.step] - ends[save.step - block]
        after = ends[save.step + 2 * block] - ends[save.step + block]
        costs.append(saving - (before + after) / 2)
    return costs


def first_cost(ends: Mapping[int, float], saves: Sequence[Save], block: int) -> float:
    """Seconds that a run's first save cost, over the quiet block after it: the one before it warms up."""
    step = saves[0].step
    return (ends[step + block] - ends[step]) - (ends[step + 2 * block] - ends[step + block])


def quiet_step_seconds(ends: Mapping[int, float], saves: Sequence[Save], block: int) -> float:
    """The median step of the quiet blocks."""
    quiet = [step for save in saves for step in range(save.step + block + 1, save.step + 2 * block + 1)]
    return statistics.median(ends[step] - ends[step - 1] for step in quiet)


def durable_seconds(saves: Sequence[Save]) -> list[float]:
    """From the end of the step to the checkpoint that is safe, of each counted save that ever is."""
    return [save.durable - save.asked for save in saves[WARM_SAVES:] if save.durable is not None]


def late_saves(ends: Mapping[int, float], saves: Sequence[Save], block: int) -> int:
    """How many counted saves were still under way when their block ended: their cost is then told too low."""
    counted = saves[WARM_SAVES:]
    return sum(save.durable is not None and save.durable > ends[save.step + block] for save in counted)
