"""The picture of where a run's time went."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monitoring.goodput import KINDS, Goodput
from monitoring.units import duration

_COLOURS = dict(zip(KINDS, ("#228833", "#66ccee", "#4477aa", "#ddaa33", "#ee7733", "#cc3311", "#999999"), strict=True))


def save_goodput_plot(spent: Goodput, path: Path) -> Path:
    """Draws the wall time by kind as one bar, cut by shares, with the amounts beside it, as PNG; returns `path`."""
    figure = Figure(figsize=(9, 3), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left = 0.0
    for kind, amount in spent.microseconds.items():
        seconds = amount / 1e6
        share = amount / spent.wall_microseconds if spent.wall_microseconds else 0.0
        axes.barh(0, seconds, left=left, color=_COLOURS[kind], label=f"{kind}: {seconds:,.1f} s, {share:.1%}")
        left += seconds
    ratio = "none" if spent.ratio is None else f"{spent.ratio:.1%}"
    axes.set(title=f"goodput {ratio} of {duration(spent.wall_seconds)}", xlabel="seconds", yticks=[])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=3, frameon=False)
    figure.savefig(path)
    return path
