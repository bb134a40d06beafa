"""What is promised of training, and whether it was reached. Pure: from the results as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.data.stats import Estimate, estimate, ratio
from benchmarks.data.targets import Target
from benchmarks.train.arms import (
    BARE,
    BARE_KEEPING,
    DDP,
    DDP_KEEPING,
    FRAMEWORKS,
    NANO,
    STAGES,
    headrace,
    timed_steps,
)
from benchmarks.train.memory import OWN
from benchmarks.train.start import BARE as BARE_START
from benchmarks.train.start import own_name

OVER_BARE, OVER_DDP, OVER_DDP_STAGE_3, OVER_FRAMEWORKS, OVER_NANO = 0.99, 0.98, 0.92, 1.15, 1.25
UTILISATION, COLD_OVER_BARE, WARM_SECONDS, OVER_FORMULA = 0.65, 1.3, 2.0, 1.05
DEFAULT_STAGE = 2


def targets(results: Mapping[str, Any]) -> list[Target]:
    """The promises on which the results have something to say."""
    found: list[Target] = []
    if "ranks-1" in results:
        found += _one_rank(results["ranks-1"])
    if "ranks-2" in results:
        found += _two_ranks(results["ranks-2"])
    if "start" in results:
        found += _starts(results["start"]["samples"])
    if "memory" in results:
        found += _memory(results["memory"])
    return found


def tokens_per_second(part: Mapping[str, Any], arm: str, clock: str = "wall") -> list[float]:
    """Of each repetition, between the marks, by wall time or by the CPU time of all processes."""
    rates = []
    for sample in part["samples"][arm]:
        steps, wall, cpu = timed_steps(sample)
        rates.append(steps * part["work"]["tokens_per_step"] / (wall if clock == "wall" else cpu))
    return rates


def peak_flops(part: Mapping[str, Any]) -> float:
    """The fastest matrix product of the same run."""
    return max(max(peak.values()) for peak in part["peaks"])


def utilisation(part: Mapping[str, Any], arm: str) -> Estimate:
    """Model FLOPs over the peak of as many cores as there are ranks."""
    peak = part["ranks"] * peak_flops(part)
    return estimate([rate * part["work"]["flops_per_token"] / peak for rate in tokens_per_second(part, arm)])


def best_of(part: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The fastest of these arms, if any of them was measured."""
    there = [name for name in names if part["samples"].get(name)]
    return max(there, key=lambda name: estimate(tokens_per_second(part, name)).median, default=None)


def _over(part: Mapping[str, Any], arm: str, other: str | None, wanted: float, place: str) -> Iterator[Target]:
    if other is not None and part["samples"].get(arm) and part["samples"].get(other):
        found = ratio(tokens_per_second(part, arm), tokens_per_second(part, other))
        yield Target(f"{place}: {arm} over {other}, tokens/s", wanted, True, found)


def _one_rank(part: Mapping[str, Any]) -> Iterator[Target]:
    own = headrace(DEFAULT_STAGE)
    for bare in (BARE, BARE_KEEPING):
        yield from _over(part, own, bare, OVER_BARE, "1 rank")
    yield from _over(part, own, best_of(part, list(FRAMEWORKS)), OVER_FRAMEWORKS, "1 rank")
    yield from _over(part, own, NANO, OVER_NANO, "1 rank")
    if part["samples"].get(own):
        yield Target(f"1 rank: utilisation of {own}", UTILISATION, True, utilisation(part, own))


def _two_ranks(part: Mapping[str, Any]) -> Iterator[Target]:
    for stage in STAGES:
        wanted = OVER_DDP_STAGE_3 if stage == 3 else OVER_DDP
        for ddp in (DDP, DDP_KEEPING):
            yield from _over(part, headrace(stage), ddp, wanted, "2 ranks")
    yield from _over(part, headrace(DEFAULT_STAGE), best_of(part, list(FRAMEWORKS)), OVER_FRAMEWORKS, "2 ranks")


def _starts(samples: Mapping[str, list[float]]) -> Iterator[Target]:
    cold, warm = own_name(1, False), own_name(1, True)
    if samples.get(cold) and samples.get(BARE_START):
        found = ratio(samples[cold], samples[BARE_START])
        yield Target(f"start: {cold}, over {BARE_START}", COLD_OVER_BARE, False, found)
    if samples.get(warm):
        yield Target(f"start: {warm}, s", WARM_SECONDS, False, estimate(samples[warm]))


def _memory(memory: Mapping[str, Any]) -> Iterator[Target]:
    """Each stage by the number of ranks at which it is farthest off."""
    for stage in STAGES:
        rows = [row for row in memory["rows"] if row["arm"] == OWN and row["stage"] == stage]
        if rows:
            worst = max(over_formula(row) for row in rows)
            what = f"memory: stage {stage}, peak over formula and declared buckets, worst case"
            yield Target(what, OVER_FORMULA, False, Estimate(worst, worst, worst))


def over_formula(row: Mapping[str, Any]) -> float:
    """The peak of a step over ZeRO's formula and what the configuration declares."""
    return float(row["peak"] / (row["formula"] + row["buckets"]))
