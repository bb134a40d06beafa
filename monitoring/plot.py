"""The picture of a run's losses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monitoring.journal import Record, last_values, number

_MAX_POINTS = 4000  # a wider curve than the picture has pixels


def save_loss_plot(records: list[Record], path: Path) -> Path:
    """Draws training and validation loss over tokens as PNG, restarts as dotted lines; returns `path`.

    Of a step that was run twice the last value is drawn: that of the attempt that went on.
    """
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = list(last_values(records).values())
    _draw(axes, _thin(_curve(steps, "loss")), label="training loss", color="tab:blue", linewidth=0.9)
    evaluations = sorted((r for r in records if r.get("event") == "eval"), key=lambda record: record["tokens"])
    _draw(axes, _curve(evaluations, "val_loss"), label="validation loss", color="tab:orange", marker="o")
    _draw(axes, _curve(evaluations, "unigram_loss"), label="unigram model", color="tab:gray", linestyle="--")
    for index, tokens in enumerate(restart_tokens(records)):
        axes.axvline(tokens, color="tab:red", linestyle=":", linewidth=1, label="restart" if index == 0 else None)
    axes.set(xlabel="tokens", ylabel="loss (nats per token)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path)
    return path


def restart_tokens(records: Iterable[Record]) -> list[int]:
    """The tokens at which each attempt after the first went on: those of its first step."""
    firsts: dict[int, int] = {}
    for record in records:
        if "event" not in record and "tokens" in record:
            firsts.setdefault(record["attempt"], record["tokens"])
    return [tokens for _, tokens in sorted(firsts.items())][1:]


def _curve(records: Iterable[Record], key: str) -> list[tuple[int, float]]:
    values = ((record.get("tokens"), number(record, key)) for record in records)
    return [(x, y) for x, y in values if x is not None and y is not None and math.isfinite(y)]


def _thin(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    stride = math.ceil(len(curve) / _MAX_POINTS)
    return curve if stride <= 1 else curve[::stride]


def _draw(axes: Axes, curve: list[tuple[int, float]], **style: Any) -> None:
    if curve:
        axes.plot([x for x, _ in curve], [y for _, y in curve], **style)
