"""Runs the arms of the comparison of saves: what they saved is compared first, then they are timed in turn."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.checkpoint.blocks import (
    Save,
    durable_seconds,
    first_cost,
    late_saves,
    quiet_step_seconds,
    save_costs,
)
from benchmarks.checkpoint.plan import Plan, command
from benchmarks.checkpoint.ranks import run_ranks
from benchmarks.data.stats import turns

logger = logging.getLogger(__name__)


def measure_world(plan: Plan, world: int, arms: Sequence[str]) -> dict[str, Any]:
    """Samples of each arm on so many ranks; an arm that does not work here is told with its reason."""
    refused: dict[str, str] = {}
    for arm in arms:
        try:
            check_saved(arm, run_once(plan, arm, world, verify=True))
        except RuntimeError as error:
            logger.warning("%s, %d ranks: left out: %s", arm, world, error)
            refused[arm] = str(error).strip().splitlines()[-1][:200]
    timed = [arm for arm in arms if arm not in refused]
    samples: dict[str, list[dict[str, Any]]] = {arm: [] for arm in timed}
    for number in turns(len(timed), plan.repetitions):
        sample = summary(run_once(plan, timed[number], world, verify=False), plan.block)
        samples[timed[number]].append(sample)
        logger.info("%s, %d ranks: saves cost %s s", timed[number], world, _short(sample["cost_seconds"]))
    return {"samples": samples, "refused": refused}


def run_once(plan: Plan, arm: str, world: int, verify: bool) -> dict[str, Any]:
    """One run of an arm in an empty folder, which is removed afterwards."""
    shutil.rmtree(plan.out, ignore_errors=True)
    plan.out.mkdir(parents=True)
    try:
        return run_ranks(command(plan, arm, world, verify), world, plan.out, plan.deadline_seconds)
    finally:
        shutil.rmtree(plan.out)


def check_saved(arm: str, answer: Mapping[str, Any]) -> None:
    """Raise RuntimeError unless every save that was read back holds the weights of its step."""
    saved, loaded = dict(answer["digests"]), dict(answer["loaded"])
    if not saved or saved != loaded:
        raise RuntimeError(f"{arm}: weights at the saves {saved}, read back {loaded}; so it is not timed")


def summary(answer: Mapping[str, Any], block: int) -> dict[str, Any]:
    """A run's figures, from what its rank 0 answered. Pure."""
    ends = {int(step): float(end) for step, end in answer["ends"]}
    saves = [Save(*save) for save in answer["saves"]]
    return {
        "cost_seconds": save_costs(ends, saves, block),
        "first_cost_seconds": first_cost(ends, saves, block),
        "step_seconds": quiet_step_seconds(ends, saves, block),
        "durable_seconds": durable_seconds(saves),
        "late_saves": late_saves(ends, saves, block),
        "bytes": answer["bytes"],
        "process_seconds": answer["process_seconds"],
        "versions": answer["versions"],
    }


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
