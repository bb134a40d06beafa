"""Runs the arms of the comparison of saves: what they saved is compared first, then they are timed in turn."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.checkpoint.blocks import (
    WARM_SAVES,
    Save,
    durable_seconds,
    first_cost,
    late_saves,
    quiet_step_seconds,
    save_costs,
)
from benchmarks.checkpoint.plan import MAY_NOT_WORK, Plan, command
from benchmarks.checkpoint.ranks import run_ranks
from benchmarks.harness.failed import Failed, recorded
from benchmarks.harness.stats import turns

logger = logging.getLogger(__name__)

Keep = Callable[[], None]
"""Stores the results as they are."""
MOST_FAILURES = 2
LEAST_SHARE = 0.98
"""Of the bytes of weights and moments: files have fewer where something is missing in them."""


def measure_world(plan: Plan, world: int, arms: Sequence[str], found: dict[str, Any], keep: Keep) -> None:
    """Put samples of each arm on so many ranks into `found`, and call `keep` after each round.

    An arm that fails is told with its reason, and the others go on; after MOST_FAILURES it is not run again.
    """
    refused: Failed = {}
    failed: Failed = {}
    found |= {"samples": {}, "refused": refused, "failed": failed}
    for arm in arms:
        with recorded(refused if arm in MAY_NOT_WORK else failed, arm):
            check_saved(arm, run_once(plan, arm, world, verify=True), plan.state_bytes)
    timed = [arm for arm in arms if arm not in refused and arm not in failed]
    found["samples"] |= {arm: [] for arm in timed}
    keep()
    for turn, number in enumerate(turns(len(timed), plan.repetitions), start=1):
        _measure_arm(plan, world, timed[number], found)
        if turn % len(timed) == 0:
            keep()


def _measure_arm(plan: Plan, world: int, arm: str, found: dict[str, Any]) -> None:
    """One more sample of an arm."""
    if len(found["failed"].get(arm, ())) >= MOST_FAILURES:
        return
    with recorded(found["failed"], arm):
        sample = summary(run_once(plan, arm, world, verify=False), plan.block)
        found["samples"][arm].append(sample)
        logger.info("%s, %d ranks: saves cost %s s", arm, world, _short(sample["cost_seconds"]))


def run_once(plan: Plan, arm: str, world: int, verify: bool) -> dict[str, Any]:
    """One run of an arm in an empty folder, which is removed afterwards."""
    shutil.rmtree(plan.out, ignore_errors=True)
    plan.out.mkdir(parents=True)
    try:
        return run_ranks(command(plan, arm, world, verify), world, plan.out, plan.deadline_seconds)
    finally:
        shutil.rmtree(plan.out)


def check_saved(arm: str, answer: Mapping[str, Any], state_bytes: int) -> None:
    """Raise RuntimeError unless every save that was read back holds the weights of its step, and there is room in it
    for both moments as well."""
    saved, loaded = dict(answer["digests"]), dict(answer["loaded"])
    if not saved or saved != loaded:
        raise RuntimeError(f"{arm}: weights at the saves {saved}, read back {loaded}; so it is not timed")
    if answer["bytes"] < LEAST_SHARE * state_bytes:
        raise RuntimeError(
            f"{arm}: a checkpoint has {answer['bytes']:,} bytes, weights and moments have {state_bytes:,}; so it is "
            "not timed"
        )


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
        "phases": answer.get("phases", [])[WARM_SAVES:],
    }


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
