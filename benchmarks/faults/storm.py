"""One trace of failures done to Headrace and to torchrun with DCP, and what either still trained."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.arms import HEADRACE, TORCHRUN
from benchmarks.faults.goodput import goodput
from benchmarks.faults.jobs import Job, JobFailedError
from benchmarks.faults.kills import Keep
from benchmarks.faults.plan import Plan
from benchmarks.faults.steps import newest, step_seconds
from benchmarks.faults.trace import CUT_CHECKPOINT, CUT_SHARD, HANG, Failure, failure_trace
from benchmarks.harness.failed import Failed, reason_of, recorded

logger = logging.getLogger(__name__)

FIRST_STEPS = 5


def measure_storm(plan: Plan, keep: Keep) -> dict[str, Any]:
    """The same trace for both arms."""
    failures = failure_trace(plan.seed, plan.storm_seconds, plan.storm_mean_seconds, world=2)
    arms: dict[str, dict[str, Any]] = {}
    failed: Failed = {}
    results = {
        "arms": arms,
        "failed": failed,
        "seconds": plan.storm_seconds,
        "mean_seconds": plan.storm_mean_seconds,
        "save_every": plan.storm_save_every,
        "failures": [[failure.at, failure.kind, failure.rank] for failure in failures],
    }
    for arm in (HEADRACE, TORCHRUN):
        with recorded(failed, arm):
            arms[arm] = storm_of(plan, arm, failures)
        keep(results)
    return results


def storm_of(plan: Plan, arm: str, failures: list[Failure]) -> dict[str, Any]:
    """One arm under the trace. A job that ends by itself has trained what it has by then."""
    with plan.place(arm) as place, plan.runner(plan.storm_save_every).started(arm, place) as job:
        job.wait_for_step(FIRST_STEPS + plan.storm_lead_steps, plan.deadline_seconds)
        usual = step_seconds(job.steps()[FIRST_STEPS:])
        began, first = time.time(), newest(job.steps())
        ended, kinds = None, list[str]()
        try:
            _inflict(job, failures, began, plan.storm_seconds, kinds)
        except JobFailedError as error:
            ended = reason_of(error)
            logger.warning("%s: %s", arm, error)
        until = began + plan.storm_seconds
        done = newest([step for step in job.steps() if step.time <= until]) - first
        ratio = goodput(done, usual, plan.storm_seconds)
        logger.info("%s: %d new steps in %.0f s, goodput %.3f", arm, done, plan.storm_seconds, ratio)
        events = [event for event in job.events if began < event["time"] <= until]
        return {
            "goodput": ratio,
            "new_steps": done,
            "step_seconds": usual,
            "starts": len({step.attempt for step in job.steps()}),
            "done": kinds,
            "stall_seconds": checkpoint_stalls(events),
            "hang_seconds": hangs(events),
            "ended": ended,
        }


def checkpoint_stalls(events: Sequence[Mapping[str, Any]]) -> float:
    """Seconds for which Headrace's loop stood still for checkpoints, by its journal. Pure."""
    saves = [event for event in events if event["event"] == "checkpoint"]
    return float(sum(event["stall_seconds"] + event["held_seconds"] for event in saves))


def hangs(events: Sequence[Mapping[str, Any]]) -> list[float]:
    """Seconds after which each rank that stood still was told to, by Headrace's journal. Pure."""
    deaths = [event for event in events if event["event"] == "rank_dead" and event.get("kind") == "hang"]
    return [float(death["detected_seconds"]) for death in deaths if "detected_seconds" in death]


def _inflict(job: Job, failures: list[Failure], began: float, seconds: float, kinds: list[str]) -> None:
    """Each failure at its time, or as soon after it as there is something to hit; then the rest of the time.

    kinds: those of the failures that were done, put in one after the other.
    """
    for failure in failures:
        _wait_until(job, began + failure.at)
        left = max(1.0, began + seconds - time.time())
        try:
            logger.info("%5.1f s: %s", failure.at, do(job, failure, left))
            kinds.append(failure.kind)
        except JobFailedError:
            if time.time() < began + seconds:
                raise
    _wait_until(job, began + seconds)


def _wait_until(job: Job, moment: float) -> None:
    if moment > time.time():
        job.wait_for(lambda: time.time() >= moment, "the next failure", moment - time.time() + 60.0)


def do(job: Job, failure: Failure, seconds: float) -> str:
    """Do one failure; what was done."""
    rank = failure.rank % 2
    if failure.kind == CUT_SHARD:
        shards = job.shards()
        return f"cut {cut(shards[failure.rank % len(shards)])}"
    if failure.kind == HANG:
        job.hit(rank, signal.SIGSTOP, seconds)
        return f"stopped rank {rank}"
    done = f"killed rank {rank}"
    if failure.kind == CUT_CHECKPOINT:
        whole = job.checkpoint_files()
        done += f", cut {cut(max(whole[-1], key=lambda path: path.stat().st_size))}" if whole else ", no checkpoint yet"
    job.hit(rank, signal.SIGKILL, seconds)
    return done


def cut(path: Path) -> str:
    """Take the second half of a file away; its name."""
    os.truncate(path, path.stat().st_size // 2)
    return path.name
