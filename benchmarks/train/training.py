"""Training side by side: losses compared first, then the arms timed in turn, and the peak of the same run."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.harness.environment import ROOT, environment
from benchmarks.harness.processes import pinned
from benchmarks.harness.stats import turns
from benchmarks.train.arms import BARE, Arm, Sample, arms, distance, run_arm, shown
from benchmarks.train.plan import Plan
from benchmarks.train.work import Work, make_work
from trainer.allocator import keeping_memory

logger = logging.getLogger(__name__)

PEAK = ROOT / "benchmarks/train/own/peak.py"
PEAK_REPEATS = 20
PEAK_SECONDS = 300.0


def measure_training(plan: Plan, ranks: int, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """One comparison of all arms on so many ranks, or of those whose names hold one of the wanted words.

    An arm that fails, or whose losses are not the bare loop's, is told under `failed` and is not timed.
    """
    work, short = (make_work(plan, plan.sequences, steps) for steps in (plan.steps, plan.check_steps))
    chosen = [arm for arm in arms(ranks) if not wanted or any(word in arm.name for word in wanted)]
    bare = next(arm for arm in arms(1) if arm.name == BARE)
    references = {made.steps: run_arm(bare, made) for made in (short, work)}
    failed: dict[str, str] = {}
    apart: dict[str, float] = {}
    for arm in chosen:
        found = _try(arm, short, references[short.steps], failed)
        if found is not None:
            apart[arm.name] = found
    good = [arm for arm in chosen if arm.name in apart]
    samples, peaks = _timed(good, work, references[work.steps], failed)
    return {
        "work": work.facts(),
        "ranks": ranks,
        "failed": failed,
        "apart": apart,
        "commands": {arm.name: shown(arm) for arm in good},
        "samples": samples,
        "peaks": peaks,
    }


def _try(arm: Arm, work: Work, reference: Sample, failed: dict[str, str]) -> float | None:
    """How far the arm's losses are from the reference's; None, and the reason told, where it is not to be timed."""
    try:
        sample = reference if arm.name == BARE else run_arm(arm, work)
        return checked(arm.name, sample, reference, work.plan.tolerance)
    except RuntimeError as error:
        logger.error("%s", error)
        failed[arm.name] = str(error)
        return None


def checked(name: str, sample: Sample, reference: Sample, tolerance: float) -> float:
    """The largest difference of a step's loss. Raises: RuntimeError if it exceeds the tolerance, or steps miss."""
    if len(sample["losses"]) != len(reference["losses"]):
        raise RuntimeError(f"{name}: {len(sample['losses'])} steps, and the bare loop {len(reference['losses'])}")
    apart = distance(sample["losses"], reference["losses"])
    if not apart <= tolerance:  # a NaN too
        raise RuntimeError(
            f"{name}: its losses differ from the bare loop's by {apart:.2g}, more than {tolerance:g}: another "
            "computation is not timed"
        )
    return apart


def _timed(
    good: Sequence[Arm], work: Work, reference: Sample, failed: dict[str, str]
) -> tuple[dict[str, list[Sample]], list[dict[str, float]]]:
    """Samples of each arm in turn, each compared again; a peak before each turn of all arms."""
    samples: dict[str, list[Sample]] = {arm.name: [] for arm in good}
    peaks = []
    for place, number in enumerate(turns(len(good), work.plan.repetitions)):
        if place % len(good) == 0:
            peaks.append(measure_peak(work))
        arm = good[number]
        if arm.name in failed:
            continue
        try:
            sample = run_arm(arm, work)
            checked(arm.name, sample, reference, work.plan.tolerance)
            samples[arm.name].append({key: value for key, value in sample.items() if key != "losses"})
        except RuntimeError as error:
            logger.error("%s", error)
            failed[arm.name] = str(error)
    return {name: found for name, found in samples.items() if name not in failed}, peaks


def measure_peak(work: Work) -> dict[str, float]:
    """FLOPs per second of matrix products on one core, by shape."""
    asked = {"rows": work.tokens_per_step, "n_embd": work.model.n_embd, "vocab_size": work.model.vocab_size}
    command = [sys.executable, str(PEAK), json.dumps({**asked, "repeats": PEAK_REPEATS})]
    variables = {**environment(), **keeping_memory({})}
    with pinned(frozenset(work.plan.cores[:1])):
        done = subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=PEAK_SECONDS, check=False
        )
    if done.returncode:
        raise RuntimeError(f"peak: exit status {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    logger.info("peak of matrix products: %.1f GFLOP/s", max(found.values()) / 1e9)
    return found
