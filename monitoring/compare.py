"""Runs side by side, from their journals and settings. Pure: summaries in, a comparison out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monitoring.journal import without_nonfinite
from monitoring.run_summary import RunSummary, summary_dict
from monitoring.seeds import SeedVerdict, judge_seeds


@dataclass(frozen=True)
class PairCheck:
    """A run against the first one, over the steps that both have."""

    common_steps: int
    first_step_of_other_data: int | None  # None: the same sequences at each common step
    first_step_of_other_loss: int | None  # None: the losses are equal to the last bit


@dataclass(frozen=True)
class Comparison:
    """Runs side by side."""

    runs: tuple[RunSummary, ...]
    settings: Mapping[str, tuple[Any, ...]]  # dotted key -> each run's value, where they differ; None: not set
    equal_tokens: int | None  # the largest number of tokens at which all runs have a validation loss
    val_loss_at_equal_tokens: tuple[float | None, ...]
    equal_hours: float | None  # likewise, of each run's own wall time
    val_loss_at_equal_hours: tuple[float | None, ...]
    pairs: tuple[PairCheck, ...]  # one for each run after the first
    seeds: SeedVerdict


def compare_summaries(summaries: Sequence[RunSummary], settings: Sequence[Mapping[str, Any]]) -> Comparison:
    """The comparison of runs that were summarised, with their settings, nested or by dotted key, in the same order."""
    flat = [flatten(values) for values in settings]
    tokens, hours = equal_tokens(summaries), equal_hours(summaries)
    at_tokens = tuple(None if tokens is None else loss_at(_by_tokens(run), tokens) for run in summaries)
    return Comparison(
        runs=tuple(summaries),
        settings=_differing(flat),
        equal_tokens=tokens,
        val_loss_at_equal_tokens=at_tokens,
        equal_hours=hours,
        val_loss_at_equal_hours=tuple(None if hours is None else loss_at(_by_hours(run), hours) for run in summaries),
        pairs=tuple(check_pair(summaries[0], run) for run in summaries[1:]),
        seeds=judge_seeds(flat, at_tokens),
    )


Curve = Sequence[tuple[float, float]]


def _by_tokens(run: RunSummary) -> Curve:
    return [(tokens, loss) for tokens, _, loss in run.val_losses]


def _by_hours(run: RunSummary) -> Curve:
    """By hours; where the run went back, the later of two evaluations of the same time does not come before."""
    return sorted((hours, loss) for _, hours, loss in run.val_losses)


def equal_tokens(runs: Sequence[RunSummary]) -> int | None:
    """The largest number of tokens at which every run has, or lies between, evaluations; None if there is none."""
    found = _equal([_by_tokens(run) for run in runs])
    return None if found is None else int(found)


def equal_hours(runs: Sequence[RunSummary]) -> float | None:
    """As `equal_tokens`, in hours of the runs' wall times."""
    return _equal([_by_hours(run) for run in runs])


def _equal(curves: Sequence[Curve]) -> float | None:
    if not curves or not all(curves):
        return None
    at = min(curve[-1][0] for curve in curves)
    return at if all(curve[0][0] <= at for curve in curves) else None


def loss_at(curve: Curve, x: float) -> float | None:
    """The loss at `x`; between two points of a curve that is sorted by it, on the line through them; None outside."""
    before = [point for point in curve if point[0] <= x]
    after = [point for point in curve if point[0] >= x]
    if not before or not after:
        return None
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Keys whose values are not the same in all runs, with the value of each; None where a run has none."""
    return _differing([flatten(values) for values in settings])


def _differing(flat: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    keys = sorted({key for values in flat for key in values})
    rows = {key: tuple(values.get(key) for values in flat) for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {prefix: value}
    return {k: v for key, item in items for k, v in flatten(item, f"{prefix}.{key}" if prefix else key).items()}


def check_pair(first: RunSummary, other: RunSummary) -> PairCheck:
    """Whether two runs saw the same data and had the same losses, step by step."""
    a, b = first.counted, other.counted
    if not np.array_equal(a["step"], b["step"]):
        _, in_a, in_b = np.intersect1d(a["step"], b["step"], assume_unique=True, return_indices=True)
        a, b = a[in_a], b[in_b]
    both_tell = (a["sequence_hash"] != 0) & (b["sequence_hash"] != 0)
    other_data = both_tell & (a["sequence_hash"] != b["sequence_hash"])
    other_loss = a["loss"].copy().view(np.int64) != b["loss"].copy().view(np.int64)
    return PairCheck(
        common_steps=len(a),
        first_step_of_other_data=_first(a["step"][other_data].tolist()),
        first_step_of_other_loss=_first(a["step"][other_loss].tolist()),
    )


def _first(steps: Sequence[int]) -> int | None:
    return steps[0] if steps else None


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON takes it, without the values of each step; NaN and infinities become null."""
    values = {
        **{name: getattr(comparison, name) for name in Comparison.__dataclass_fields__},
        "runs": [summary_dict(run) for run in comparison.runs],
        "pairs": [asdict(pair) for pair in comparison.pairs],
        "seeds": asdict(comparison.seeds),
    }
    plain: dict[str, Any] = json.loads(json.dumps(without_nonfinite(values), default=str))
    return plain
