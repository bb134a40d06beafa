"""What is promised of training, and whether it was reached. Pure: from the results as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.harness.stats import Estimate, estimate, ratio
from benchmarks.harness.targets import Promise, Target, Unmeasured
from benchmarks.train.arms import BARE, BARE_KEEPING, DDP, DDP_KEEPING, FRAMEWORKS, NANO, STAGES, headrace, timed_steps
from benchmarks.train.memory import OWN
from benchmarks.train.start import BARE as BARE_START
from benchmarks.train.start import own_name

OVER_BARE, OVER_DDP, OVER_DDP_STAGE_3, OVER_FRAMEWORKS, OVER_NANO = 0.99, 0.98, 0.92, 1.15, 1.25
UTILISATION, COLD_OVER_BARE, WARM_SECONDS, OVER_FORMULA = 0.65, 1.3, 2.0, 1.05
DEFAULT_STAGE = 2

Part = Mapping[str, Any] | None
"""The results of a part; None where it was not run."""


def targets(results: Mapping[str, Any]) -> list[Promise]:
    """All promises; those of which the results say nothing with the reason."""
    one, two, start, memory = (results.get(part) for part in ("ranks-1", "ranks-2", "start", "memory"))
    return [*_one_rank(one), *_two_ranks(two), *_starts(start), *_memory(memory)]


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


def _missing(part: Part, *names: str) -> str | None:
    """Why there is nothing of the first of these arms that is not there; None where all are."""
    if part is None:
        return "this part was not run"
    for name in names:
        if not part["samples"].get(name):
            return f"{name} failed" if name in part["failed"] else f"{name} was not run"
    return None


def _over(part: Part, arm: str, other: str, wanted: float, place: str) -> Promise:
    what = f"{place}: {arm} over {other}, tokens/s"
    if reason := _missing(part, arm, other):
        return Unmeasured(what, wanted, True, reason)
    assert part is not None
    return Target(what, wanted, True, ratio(tokens_per_second(part, arm), tokens_per_second(part, other)))


def _over_frameworks(part: Part, arm: str, place: str) -> Promise:
    best = None if part is None else best_of(part, list(FRAMEWORKS))
    return _over(part, arm, best or "the fastest framework", OVER_FRAMEWORKS, place)


def _one_rank(part: Part) -> Iterator[Promise]:
    own, place, what = headrace(DEFAULT_STAGE), "1 rank", f"1 rank: utilisation of {headrace(DEFAULT_STAGE)}"
    for bare in (BARE, BARE_KEEPING):
        yield _over(part, own, bare, OVER_BARE, place)
    yield _over_frameworks(part, own, place)
    yield _over(part, own, NANO, OVER_NANO, place)
    if reason := _missing(part, own):
        yield Unmeasured(what, UTILISATION, True, reason)
    else:
        assert part is not None
        yield Target(what, UTILISATION, True, utilisation(part, own))


def _two_ranks(part: Part) -> Iterator[Promise]:
    for stage in STAGES:
        wanted = OVER_DDP_STAGE_3 if stage == 3 else OVER_DDP
        for ddp in (DDP, DDP_KEEPING):
            yield _over(part, headrace(stage), ddp, wanted, "2 ranks")
    yield _over_frameworks(part, headrace(DEFAULT_STAGE), "2 ranks")


def _starts(part: Part) -> Iterator[Promise]:
    cold, warm = own_name(1, False), own_name(1, True)
    for what, names, wanted in (
        (f"start: {cold}, over {BARE_START}", (cold, BARE_START), COLD_OVER_BARE),
        (f"start: {warm}, s", (warm,), WARM_SECONDS),
    ):
        if reason := _missing(part, *names):
            yield Unmeasured(what, wanted, False, reason)
            continue
        assert part is not None
        own, *other = (part["samples"][name] for name in names)
        yield Target(what, wanted, False, ratio(own, other[0]) if other else estimate(own))


def _memory(part: Part) -> Iterator[Promise]:
    """Each stage by the number of ranks at which it is farthest off."""
    for stage in STAGES:
        what = f"memory: stage {stage}, peak over formula and declared buckets, worst case"
        rows = [] if part is None else [row for row in part["rows"] if row["arm"] == OWN and row["stage"] == stage]
        if rows:
            worst = max(over_formula(row) for row in rows)
            yield Target(what, OVER_FORMULA, False, Estimate(worst, worst, worst))
        else:
            reason = "this part was not run" if part is None else "all its cases failed"
            yield Unmeasured(what, OVER_FORMULA, False, reason)


def over_formula(row: Mapping[str, Any]) -> float:
    """The peak of a step over ZeRO's formula and what the configuration declares."""
    return float(row["peak"] / (row["formula"] + row["buckets"]))
