"""Runs side by side, from their journals and run files. The core is pure: records in, a comparison out."""

from __future__ import annotations

import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from monitoring.errors import MonitoringError
from monitoring.goodput import goodput
from monitoring.history import Fence, believed, read_fence
from monitoring.journal import Record, is_step, last_values, number, read_records, without_nonfinite
from monitoring.runs import RunFolder
from monitoring.units import duration

_ENDINGS = {None: "not ended", "finished": "finished", "stopped": "stopped", "failed": "failed"}


@dataclass(frozen=True)
class RunSummary:
    """One run. Losses are in nats per token; of a step that was run twice, the last value counts."""

    name: str
    run_id: str
    status: str
    steps: int
    tokens: int
    last_loss: float | None
    mean_last_10_loss: float | None
    best_loss: float | None
    last_val_loss: float | None
    best_val_loss: float | None
    unigram_loss: float | None
    tokens_per_second: float | None  # median over steps
    wall_seconds: float  # stops on request left out, recoveries counted
    goodput: float | None  # time in steps that count over the wall time
    world_sizes: tuple[int, ...]  # of its attempts, equal neighbours once
    restarts: int
    val_losses: tuple[tuple[int, float], ...]  # (tokens, loss), by tokens
    loss_hexes: Mapping[int, str]  # by step
    sequence_hashes: Mapping[int, str]  # by step


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
    pairs: tuple[PairCheck, ...]  # one for each run after the first


def compare(runs: Sequence[RunFolder]) -> Comparison:
    """Compares runs from their folders; MonitoringError if one has no journal or a broken one."""
    summaries = [_summarise_folder(run) for run in runs]
    return compare_summaries(summaries, [run.settings() for run in runs])


def compare_summaries(summaries: Sequence[RunSummary], settings: Sequence[Mapping[str, Any]]) -> Comparison:
    """The comparison of runs that were summarised, with their nested settings in the same order. Pure."""
    tokens = equal_tokens(summaries)
    return Comparison(
        runs=tuple(summaries),
        settings=differing_settings(settings),
        equal_tokens=tokens,
        val_loss_at_equal_tokens=tuple(None if tokens is None else val_loss_at(run, tokens) for run in summaries),
        pairs=tuple(check_pair(summaries[0], run) for run in summaries[1:]),
    )


def summarise(name: str, run_id: str, records: Iterable[Record], fence: Fence | None = None) -> RunSummary:
    """One run from its journal's records; `fence`: so that no outrun attempt's records count. Pure."""
    fence = fence or Fence()
    records = believed(records, fence)
    spent = goodput(records, fence)
    steps = last_values(records)
    losses = [loss for record in steps.values() if (loss := number(record, "loss")) is not None]
    speeds = [speed for record in steps.values() if (speed := number(record, "tokens_per_second")) is not None]
    val_losses = _by_tokens(records, "val_loss")
    unigram_losses = _by_tokens(records, "unigram_loss")
    return RunSummary(
        name=name,
        run_id=run_id,
        status=_ENDINGS[_last_ending(records)],
        steps=max(steps, default=0),
        tokens=max((record["tokens"] for record in steps.values()), default=0),
        last_loss=losses[-1] if losses else None,
        mean_last_10_loss=statistics.fmean(losses[-10:]) if losses else None,
        best_loss=_least(losses),
        last_val_loss=val_losses[-1][1] if val_losses else None,
        best_val_loss=_least([loss for _, loss in val_losses]),
        unigram_loss=unigram_losses[-1][1] if unigram_losses else None,
        tokens_per_second=statistics.median(speeds) if speeds else None,
        wall_seconds=spent.wall_seconds,
        goodput=spent.ratio,
        world_sizes=spent.world_sizes,
        restarts=max(0, len({record["attempt"] for record in records}) - 1),
        val_losses=val_losses,
        loss_hexes={step: record["loss_hex"] for step, record in steps.items() if record.get("loss_hex")},
        sequence_hashes={step: r["sequence_hash"] for step, r in steps.items() if r.get("sequence_hash")},
    )


def equal_tokens(runs: Sequence[RunSummary]) -> int | None:
    """The largest number of tokens at which every run has, or lies between, evaluations; None if there is none."""
    if not runs or not all(run.val_losses for run in runs):
        return None
    tokens = min(run.val_losses[-1][0] for run in runs)
    return tokens if all(run.val_losses[0][0] <= tokens for run in runs) else None


def val_loss_at(run: RunSummary, tokens: int) -> float | None:
    """The validation loss at `tokens`; between two evaluations, on the line through them; None outside."""
    before = [point for point in run.val_losses if point[0] <= tokens]
    after = [point for point in run.val_losses if point[0] >= tokens]
    if not before or not after:
        return None
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (tokens - x0) / (x1 - x0)


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Dotted keys whose values are not the same in all runs, with the value of each; None where a run has none."""
    flat = [_flatten(values) for values in settings]
    keys = sorted({key for values in flat for key in values})
    rows = {key: tuple(values.get(key) for values in flat) for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def check_pair(first: RunSummary, other: RunSummary) -> PairCheck:
    """Whether two runs saw the same data and had the same losses, step by step."""
    return PairCheck(
        common_steps=len(first.loss_hexes.keys() & other.loss_hexes.keys()),
        first_step_of_other_data=_first_difference(first.sequence_hashes, other.sequence_hashes),
        first_step_of_other_loss=_first_difference(first.loss_hexes, other.loss_hexes),
    )


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON takes it, without the values of each step; NaN and infinities become null."""
    values = asdict(comparison)
    for run in values["runs"]:
        del run["loss_hexes"], run["sequence_hashes"]
    plain: dict[str, Any] = json.loads(json.dumps(without_nonfinite(values), default=str))
    return plain


def to_table(comparison: Comparison, width: int = 120) -> str:
    """The comparison as plain text of at most `width` columns; a missing value is "-"."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for run in comparison.runs:
        table.add_column(run.name, justify="right", overflow="fold")
    for label, cells in _rows(comparison):
        table.add_row(label, *cells)
    if comparison.settings:
        table.add_section()
    for key, values in comparison.settings.items():
        table.add_row(key, *("-" if value is None else _plain(value) for value in values))
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=False, no_color=True, markup=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n") + "\n"


def _rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    runs = comparison.runs
    at = "-" if comparison.equal_tokens is None else f"{comparison.equal_tokens:,}"
    rows = [
        ("status", [run.status for run in runs]),
        ("steps", [f"{run.steps:,}" for run in runs]),
        ("tokens", [f"{run.tokens:,}" for run in runs]),
        ("train loss, last", [_number(run.last_loss) for run in runs]),
        ("train loss, mean of last 10", [_number(run.mean_last_10_loss) for run in runs]),
        ("train loss, best", [_number(run.best_loss) for run in runs]),
        (f"val loss at {at} tokens", [_number(loss) for loss in comparison.val_loss_at_equal_tokens]),
        ("val loss, last", [_number(run.last_val_loss) for run in runs]),
        ("val loss, best", [_number(run.best_val_loss) for run in runs]),
        ("unigram loss", [_number(run.unigram_loss) for run in runs]),
        ("tokens/s, median", [_number(run.tokens_per_second, ",.0f") for run in runs]),
        ("wall time", [duration(run.wall_seconds) for run in runs]),
        ("goodput", ["-" if run.goodput is None else f"{run.goodput:.1%}" for run in runs]),
        ("workers", [" -> ".join(map(str, run.world_sizes)) or "-" for run in runs]),
        ("restarts", [str(run.restarts) for run in runs]),
    ]
    if comparison.pairs:
        names = {"same data as first": "first_step_of_other_data", "same loss, bit for bit": "first_step_of_other_loss"}
        rows += [(label, ["", *(_agreement(pair, key) for pair in comparison.pairs)]) for label, key in names.items()]
    return rows


def _agreement(pair: PairCheck, key: str) -> str:
    if not pair.common_steps:
        return "-"
    step = getattr(pair, key)
    return f"yes ({pair.common_steps:,} steps)" if step is None else f"until step {step:,}"


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _summarise_folder(run: RunFolder) -> RunSummary:
    records = list(read_records(run.out_dir))
    if not records:
        raise MonitoringError(
            f"{run.out_dir}: must hold a journal to be compared, found none; train {run.name!r} first"
        )
    return summarise(run.name, run.run_id, records, read_fence(run.out_dir))


def _by_tokens(records: Iterable[Record], key: str) -> tuple[tuple[int, float], ...]:
    """(tokens, value) of the evaluations, by tokens; the last one where there are several at the same tokens."""
    evaluations = (record for record in records if record.get("event") == "eval")
    values = {record["tokens"]: value for record in evaluations if (value := number(record, key)) is not None}
    return tuple(sorted(values.items()))


def _last_ending(records: Sequence[Record]) -> str | None:
    """How the run ended; None if it went on after that, or has not ended."""
    for record in reversed(records):
        if record.get("event") == "end":
            return str(record["status"])
        if is_step(record) or record.get("event") == "start":
            return None
    return None


def _least(values: Sequence[float]) -> float | None:
    return min((value for value in values if not math.isnan(value)), default=None)


def _first_difference(a: Mapping[int, str], b: Mapping[int, str]) -> int | None:
    return min((step for step in a.keys() & b.keys() if a[step] != b[step]), default=None)


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {prefix: value}
    return {k: v for key, item in items for k, v in _flatten(item, f"{prefix}.{key}" if prefix else key).items()}
