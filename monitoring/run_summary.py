"""One run in numbers, from the columns of its journal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitoring.columns import Columns, Steps, believed_columns, columns_of, counted_steps, values
from monitoring.goodput import goodput_of
from monitoring.history import Fence
from monitoring.journal import Record, number
from monitoring.rank_times import slowest_rank_text

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
    utilisation: float | None  # of the peak in matrix products; median over steps
    wall_seconds: float  # stops on request left out, recoveries counted
    goodput: float | None  # time in steps that count over the wall time
    spent_seconds: Mapping[str, float]  # by kind of `monitoring.goodput`
    world_sizes: tuple[int, ...]  # of its attempts, equal neighbours once
    restarts: int
    slowest_rank: str | None  # at the newest look at all ranks
    val_losses: tuple[tuple[int, float, float], ...]  # (tokens, hours of the run, loss), by tokens
    counted: Steps  # the steps that count, by step
    hours: NDArray[np.float64]  # of the run, at the end of each of them


_ARRAYS = ("counted", "hours")


def summarise(name: str, run_id: str, records: Iterable[Record], fence: Fence | None = None) -> RunSummary:
    """One run from its journal's records; `fence`: so that no outrun attempt's records count."""
    return summarise_columns(name, run_id, columns_of(records), fence or Fence())


def summarise_columns(name: str, run_id: str, columns: Columns, fence: Fence) -> RunSummary:
    """One run from the columns of its journal."""
    columns = believed_columns(columns, fence)
    spent = goodput_of(columns, fence)
    steps, _ = counted_steps(columns)
    losses = steps["loss"]
    evaluations = [record for record in columns.of("eval") if "tokens" in record]
    hours = spent.run_seconds(np.array([float(record["time"]) for record in evaluations])) / 3600
    val_losses = _val_losses(evaluations, hours.tolist())
    unigram_losses = [value for record in evaluations if (value := number(record, "unigram_loss")) is not None]
    return RunSummary(
        name=name,
        run_id=run_id,
        status=_ENDINGS[_last_ending(columns)],
        steps=int(steps["step"].max(initial=0)),
        tokens=int(steps["tokens"].max(initial=0)),
        last_loss=float(losses[-1]) if len(losses) else None,
        mean_last_10_loss=float(losses[-10:].mean()) if len(losses) else None,
        best_loss=_least(losses),
        last_val_loss=val_losses[-1][2] if val_losses else None,
        best_val_loss=_least(np.array([loss for _, _, loss in val_losses])),
        unigram_loss=unigram_losses[-1] if unigram_losses else None,
        tokens_per_second=_median(steps, "tokens_per_second"),
        utilisation=_median(steps, "mfu"),
        wall_seconds=spent.wall_seconds,
        goodput=spent.ratio,
        spent_seconds={kind: amount / 1e6 for kind, amount in spent.microseconds.items()},
        world_sizes=spent.world_sizes,
        restarts=max(0, len(_attempts(columns)) - 1),
        slowest_rank=slowest_rank_text(columns.of("rank_times")),
        val_losses=val_losses,
        counted=steps,
        hours=spent.run_seconds(steps["time"]) / 3600,
    )


def summary_dict(summary: RunSummary) -> dict[str, Any]:
    """The summary without the values of each step."""
    return {field.name: getattr(summary, field.name) for field in fields(summary) if field.name not in _ARRAYS}


def _attempts(columns: Columns) -> set[int]:
    return {*np.unique(columns.steps["attempt"]).tolist(), *(record["attempt"] for record in columns.events)}


def _val_losses(evaluations: Sequence[Record], hours: Sequence[float]) -> tuple[tuple[int, float, float], ...]:
    """By tokens; the last one where there are several at the same tokens."""
    found = {
        record["tokens"]: (at, loss)
        for record, at in zip(evaluations, hours, strict=True)
        if (loss := number(record, "val_loss")) is not None
    }
    return tuple((tokens, at, loss) for tokens, (at, loss) in sorted(found.items()))


def _last_ending(columns: Columns) -> str | None:
    """How the run ended; None if it went on after that, or has not ended."""
    ends = [
        (record["attempt"], line, record)
        for record, line in zip(columns.events, columns.event_lines, strict=True)
        if record.get("event") in ("end", "start")
    ]
    if not ends or ends[-1][2]["event"] == "start":
        return None
    attempt, line, end = ends[-1]
    steps = columns.steps[-1:]
    goes_on = len(steps) > 0 and (int(steps["attempt"][0]), int(steps["line"][0])) > (attempt, line)
    return None if goes_on else str(end["status"])


def _median(steps: Steps, name: str) -> float | None:
    found = values(steps, name)
    return float(np.median(found)) if len(found) else None


def _least(found: NDArray[np.float64]) -> float | None:
    real = found[~np.isnan(found)]
    return float(real.min()) if len(real) else None
