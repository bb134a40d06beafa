"""Whether settings differ in their loss by more than their seeds do. Pure.

Runs whose settings are the same but for the seed (and for where and how they ran) are a group. Groups with at least two
seeds are compared with the first of them: the difference of their means with Welch's t interval (Welch 1947; degrees of
freedom by Satterthwaite), which does not take the spreads to be equal. Where there are several comparisons, their
intervals hold together at 95 % (Bonferroni).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monitoring.student_t import t_quantile

CONFIDENCE = 0.95

_NO_SETTINGS_OF_THE_MODEL = ("name", "out_dir", "seed", "data.dir")
_SECTIONS_OF_THE_PLACE = ("cluster.", "monitoring.", "checkpoint.", "resolved.")


@dataclass(frozen=True)
class SeedGroup:
    """Runs of the same settings. Losses are at equal tokens, a mean for each seed."""

    label: str  # the settings that tell it from the other groups
    runs: tuple[int, ...]  # their places among the runs compared
    seeds: tuple[Any, ...]
    losses: tuple[float, ...]
    mean: float | None
    deviation: float | None  # of the seeds (n - 1); None for fewer than two


@dataclass(frozen=True)
class Difference:
    """A group's mean loss less the first group's, with its interval."""

    first: int
    other: int
    value: float
    low: float
    high: float
    degrees_of_freedom: float | None  # None: no seed differs from another, the interval is a point


@dataclass(frozen=True)
class SeedVerdict:
    """What the seeds allow to say."""

    groups: tuple[SeedGroup, ...]
    differences: tuple[Difference, ...]
    confidence: float  # of all the differences together
    text: str


def judge_seeds(settings: Sequence[Mapping[str, Any]], losses: Sequence[float | None]) -> SeedVerdict:
    """The verdict on runs by their settings (dotted keys) and their losses at equal tokens, both in the same order."""
    groups = _groups(settings, losses)
    able = [index for index, group in enumerate(groups) if len(group.losses) >= 2]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(able) - 1)
    differences = tuple(_difference(groups, able[0], other, confidence) for other in able[1:])
    return SeedVerdict(groups, differences, CONFIDENCE, _text(groups, differences))


def welch(a: Sequence[float], b: Sequence[float], confidence: float) -> tuple[float, float, float, float | None]:
    """(mean of b less that of a, low, high, degrees of freedom) of two samples of at least two."""
    value = statistics.fmean(b) - statistics.fmean(a)
    parts = [(statistics.variance(sample) / len(sample), len(sample) - 1) for sample in (a, b)]
    whole = sum(part for part, _ in parts)
    if whole == 0.0:
        return value, value, value, None
    df = 1.0 / sum((part / whole) ** 2 / n for part, n in parts)
    half = t_quantile((1 + confidence) / 2, df) * math.sqrt(whole)
    return value, value - half, value + half, df


def _difference(groups: Sequence[SeedGroup], first: int, other: int, confidence: float) -> Difference:
    return Difference(first, other, *welch(groups[first].losses, groups[other].losses, confidence))


def _groups(settings: Sequence[Mapping[str, Any]], losses: Sequence[float | None]) -> tuple[SeedGroup, ...]:
    of_model = [{key: value for key, value in each.items() if _is_of_model(key)} for each in settings]
    texts = [json.dumps(each, sort_keys=True, default=str) for each in of_model]
    members: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        members.setdefault(text, []).append(index)
    firsts = [of_model[indices[0]] for indices in members.values()]
    keys = sorted({key for each in firsts for key in each})
    told = [key for key in keys if len({json.dumps(each.get(key), default=str) for each in firsts}) > 1]
    return tuple(
        _group(_label(first, told), indices, settings, losses)
        for first, indices in zip(firsts, members.values(), strict=True)
    )


def _is_of_model(key: str) -> bool:
    return key not in _NO_SETTINGS_OF_THE_MODEL and not key.startswith(_SECTIONS_OF_THE_PLACE)


def _label(settings: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key}={settings.get(key)}" for key in keys) or "the settings of all"


def _group(
    label: str, indices: Sequence[int], settings: Sequence[Mapping[str, Any]], losses: Sequence[float | None]
) -> SeedGroup:
    by_seed: dict[Any, list[float]] = {}
    for index in indices:
        loss = losses[index]
        if loss is not None and math.isfinite(loss):
            by_seed.setdefault(settings[index].get("seed"), []).append(loss)
    means = [statistics.fmean(each) for each in by_seed.values()]  # a seed run twice is one observation
    return SeedGroup(
        label=label,
        runs=tuple(indices),
        seeds=tuple(by_seed),
        losses=tuple(means),
        mean=statistics.fmean(means) if means else None,
        deviation=statistics.stdev(means) if len(means) >= 2 else None,
    )


def _text(groups: Sequence[SeedGroup], differences: Sequence[Difference]) -> str:
    if sum(len(group.runs) for group in groups) < 2:
        return "no verdict: it takes two runs or more"
    if len(groups) < 2:
        return "no verdict: all runs have the same settings but for their seeds"
    if not any(group.losses for group in groups):
        return "no verdict: the runs have no validation loss at the same number of tokens"
    lone = [group for group in groups if len(group.losses) < 2]
    told = [_difference_text(groups, difference) for difference in differences]
    if not told:
        told = ["no verdict: it takes two settings with several seeds each; one seed proves nothing"]
    elif lone:
        told.append(f"{len(lone)} other settings have fewer than two seeds: nothing is proved of them")
    return "; ".join(told)


def _difference_text(groups: Sequence[SeedGroup], found: Difference) -> str:
    first, other = groups[found.first], groups[found.other]
    who = f"{other.label} against {first.label}"
    how = (
        f"{len(other.losses)} and {len(first.losses)} seeds, 95 % Welch interval {found.low:+.4f} to {found.high:+.4f}"
    )
    if found.low <= 0.0 <= found.high:
        return f"{who}: no difference can be told ({found.value:+.4f} nats per token; {how})"
    word = "lower" if found.value < 0 else "higher"
    return f"{who}: validation loss {word} by {abs(found.value):.4f} nats per token ({how})"
