"""SIGKILL of a rank to the next new step, and the steps that a kill throws away: the same kills, counted twice."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.faults.arms import HEADRACE, TORCHRUN
from benchmarks.faults.jobs import HeadraceJob, Job, kill_within_a_step
from benchmarks.faults.plan import Plan
from benchmarks.faults.steps import recovery
from benchmarks.harness.failed import Failed, recorded
from benchmarks.harness.stats import turns

logger = logging.getLogger(__name__)

Keep = Callable[[Mapping[str, Any]], None]
"""Stores what there is of a part's results."""
FIRST_STEPS = 4


def measure_recovery(plan: Plan, arms: Sequence[str], keep: Keep) -> dict[str, Any]:
    """The kills of each arm, arms in turn; each repetition has moments of its own, the same for all arms."""
    kills: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    failed: Failed = {}
    results = {"kills": kills, "save_every": plan.recovery_save_every, "failed": failed}
    done = dict.fromkeys(arms, 0)
    for turn, number in enumerate(turns(len(arms), plan.repetitions), start=1):
        arm = arms[number]
        generator = random.Random(plan.seed * 1000 + done[arm])
        with recorded(failed, arm):
            kills_of_run(
                plan, arm, plan.recovery_kills, plan.recovery_save_every, plan.recovery_gap, generator, kills[arm]
            )
        done[arm] += 1
        if turn % len(arms) == 0:
            keep(results)
    return results


def measure_lost(plan: Plan, keep: Keep) -> dict[str, Any]:
    """One run of Headrace and one of torchrun, with the same gaps between kills."""
    kills: dict[str, list[dict[str, Any]]] = {HEADRACE: [], TORCHRUN: []}
    failed: Failed = {}
    results = {"kills": kills, "save_every": plan.lost_save_every, "failed": failed}
    for arm, found in kills.items():
        with recorded(failed, arm):
            kills_of_run(
                plan, arm, plan.lost_kills, plan.lost_save_every, plan.lost_gap, random.Random(plan.seed), found
            )
        keep(results)
    return results


def kills_of_run(
    plan: Plan,
    arm: str,
    count: int,
    save_every: int,
    gap: tuple[int, int],
    generator: random.Random,
    found: list[dict[str, Any]],
) -> None:
    """So many kills of one run, one after the other, put into `found`: those before a failure are there too."""
    with plan.place(arm) as place, plan.runner(save_every).started(arm, place) as job:
        job.wait_for_step(FIRST_STEPS, plan.deadline_seconds)
        for _ in range(count):
            found.append(one_kill(job, generator, gap, plan.deadline_seconds))
            logger.info("%s: next new step after %.2f s, %d run again", arm, *_shown(found[-1]))


def one_kill(job: Job, generator: random.Random, gap: tuple[int, int], seconds: float) -> dict[str, Any]:
    """Kill a rank and wait for the next new step; what it cost."""
    killed, usual = kill_within_a_step(job, generator, gap, seconds)
    found = job.wait_for(lambda: recovery(job.steps(), killed, usual), "a new step after a kill", seconds)
    more = phases(job, killed) if isinstance(job, HeadraceJob) else {}
    return {**asdict(found), "step_seconds": usual, **more}


def phases(job: HeadraceJob, killed: float, patience_seconds: float = 5.0) -> dict[str, Any]:
    """Where the time from the kill to the first step went, by the journal: until new ranks are forked, until they hold
    their state, and the first step."""
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        job.steps()
        ends = [event["time"] for event in job.events if event["event"] == "rank_dead" and event["time"] > killed]
        begins = [event["time"] for event in job.events if event["event"] == "start" and event["time"] > killed]
        steps = [step.time for step in job.steps() if begins and step.time > begins[0]]
        if ends and steps:
            seconds = {"forked": ends[0] - killed, "ready": begins[0] - ends[0], "first_step": steps[0] - begins[0]}
            return {"phases_seconds": seconds}
        time.sleep(0.05)
    return {}


def _shown(kill: dict[str, Any]) -> tuple[float, int]:
    return kill["new_step_seconds"], kill["replayed_steps"]
