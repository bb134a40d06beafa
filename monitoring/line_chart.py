"""A curve drawn with characters. Pure.

A cell of braille has two dots across and four down, so that a chart of 60 by 10 cells has 120 by 40 points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column within a cell
_BLANK = 0x2800
_BARS = " ▁▂▃▄▅▆▇█"
MARK = "o"

Floats = NDArray[np.float64]
Point = tuple[float, float]


def line_chart(x: Floats, y: Floats, marks: Sequence[Point], width: int, height: int) -> list[str]:
    """Lines of text, `height` of them and one for the x axis, `width` wide: means of y over x, and marked points.

    Values that are not finite are left out; without any value the chart is empty. The y axis starts at the least value,
    and ends below the highest hundredth, where a training begins.
    """
    room = max(8, width - 9)
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    marked = [(a, b) for a, b in marks if math.isfinite(b)]
    every = np.concatenate([y, [b for _, b in marked]])
    if not len(every):
        return ["no steps yet".center(width)] + [" " * width] * height
    low, high = float(every.min()), float(np.quantile(every, 0.99))
    high = high if high > low else low + 1.0
    right = max([float(x.max(initial=0.0)), *(a for a, _ in marked)]) or 1.0
    grid = _curve(x / right, (high - y) / (high - low), room, height)
    for a, b in marked:
        row, column = _place((high - b) / (high - low), height), _place(a / right, room)
        grid[row][column] = MARK
    labels = [f"{high - (high - low) * row / max(1, height - 1):8.3f} " for row in range(height)]
    lines = [label + "".join(cells) for label, cells in zip(labels, grid, strict=True)]
    return [*lines, " " * 9 + "0" + _count(right).rjust(room - 1)]


def sparkline(values: Floats, width: int) -> str:
    """Means of neighbouring values as bars from zero up, at most `width` of them."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return ""
    parts = np.array_split(finite, min(width, len(finite)))
    means = [float(part.mean()) for part in parts]
    top = max(*means, 1e-12) if len(means) > 1 else max(means[0], 1e-12)
    return "".join(_BARS[max(0, min(8, round(8 * value / top)))] for value in means)


def _curve(x: Floats, y: Floats, width: int, height: int) -> list[list[str]]:
    """x and y from 0 to 1, y downwards; the curve as cells. Columns between two points are joined."""
    cells = np.zeros((height, width), np.int64)
    columns = np.minimum((x * (2 * width - 1)).astype(np.int64), 2 * width - 1)
    sums = np.bincount(columns, weights=y, minlength=2 * width)
    counts = np.bincount(columns, minlength=2 * width)
    filled = np.flatnonzero(counts)
    if len(filled):
        every = np.arange(filled[0], filled[-1] + 1)
        heights = np.interp(every, filled, sums[filled] / counts[filled])
        dots = np.clip(np.rint(heights * (4 * height - 1)).astype(int), 0, 4 * height - 1).tolist()
        before = dots[0]
        for column, dot in zip(every.tolist(), dots, strict=True):
            step = 1 if dot >= before else -1
            for row in {dot, *range(before + step, dot, step)}:  # steep parts have no gaps
                cells[row // 4, column // 2] |= _DOTS[row % 4][column % 2]
            before = dot
    return [[chr(_BLANK + int(cell)) for cell in row] for row in cells]


def _place(value: float, size: int) -> int:
    return min(size - 1, max(0, int(value * (size - 1) + 0.5)))


def _count(value: float) -> str:
    return f"{value:,.0f} tokens"
