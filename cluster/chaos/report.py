"""The verdict for people and for programs. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cluster.chaos.verdict import Outcome, Promise, Verdict

_WIDTH = 150


def to_dict(verdict: Verdict, ratios: dict[str, float | None]) -> dict[str, Any]:
    """The verdict as plain values. ratios: the effective-training-time ratio of each run."""
    return {
        "held": verdict.held,
        "faults": [_outcome_to_dict(outcome) for outcome in verdict.outcomes],
        "promises": [{"name": p.name, "found": p.found, "problems": list(p.problems)} for p in verdict.promises],
        "effective_time_ratio": ratios,
        "replayed_steps": sum(outcome.replayed_steps for outcome in verdict.outcomes),
    }


def _outcome_to_dict(outcome: Outcome) -> dict[str, Any]:
    return {
        **outcome.injection.to_dict(),
        "detected_seconds": outcome.detected_seconds,
        "new_step_seconds": outcome.new_step_seconds,
        "replayed_steps": outcome.replayed_steps,
        "problems": list(outcome.problems),
    }


def to_text(verdict: Verdict, ratios: dict[str, float | None], width: int = _WIDTH) -> str:
    """Two tables, and a line on the time."""
    out = StringIO()
    console = Console(file=out, width=width)
    console.print(_faults_table(verdict.outcomes))
    console.print(_promises_table(verdict.promises))
    shown = ", ".join(f"{name} {_percent(ratio)}" for name, ratio in ratios.items())
    recovered = [o.new_step_seconds for o in verdict.outcomes if o.new_step_seconds is not None]
    console.print(f"time spent on steps that count, of all time: {shown}")
    if recovered:
        console.print(
            f"from a fault to the next new step: median {statistics.median(recovered):.1f} s, "
            f"at most {max(recovered):.1f} s; steps run again: {sum(o.replayed_steps for o in verdict.outcomes)}"
        )
    console.print("every promise held" if verdict.held else "NOT every promise held")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _percent(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{ratio:.1%}"


def _faults_table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(box=box.SIMPLE, title="faults", title_justify="left")
    for column in ("", "fault", "step"):
        table.add_column(column)
    for column in ("detected, s", "new step, s", "steps again", "processes gone, s"):
        table.add_column(column, justify="right")
    table.add_column("held")
    for outcome in outcomes:
        injection = outcome.injection
        table.add_row(
            str(injection.index),
            f"{injection.fault.kind}: {injection.target}",
            str(injection.step),
            _seconds(outcome.detected_seconds),
            _seconds(outcome.new_step_seconds),
            str(outcome.replayed_steps),
            _seconds(injection.gone_seconds),
            _held(outcome.problems),
        )
    return table


def _promises_table(promises: Sequence[Promise]) -> Table:
    table = Table(box=box.SIMPLE, title="promises", title_justify="left")
    for column in ("of the whole run", "found", "held"):
        table.add_column(column)
    for promise in promises:
        table.add_row(promise.name, promise.found, _held(promise.problems))
    return table


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def _held(problems: Sequence[str]) -> str:
    return "yes" if not problems else "NO: " + "; ".join(problems)
