"""Small charts as SVG, to stand within a page: their colours come from the page's style sheet. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.visible import escape
from monitoring.units import short

WIDE, NARROW = 640, 400
_HEIGHT = 180
_LEFT, _BOTTOM, _TOP = 64, 24, 12
_WIDEST = 72  # a column
_LABEL = 52  # room for a number


@dataclass(frozen=True)
class Column:
    """One column: what stands below it, the count that is its height, and what is told of it on hover."""

    label: str
    value: int
    title: str


def column_chart(columns: Sequence[Column], what: str, width: int = WIDE) -> str:
    """Columns from zero up, with grid lines at round values; `what` tells readers who do not see it what it is."""
    top = max((column.value for column in columns), default=0)
    grid = range(0, top + 1, _round_step(top))
    room = min(_WIDEST, (width - _LEFT) / max(1, len(columns)))
    gap = min(2.0, room * 0.2)
    every = math.ceil(_LABEL / room)
    parts = [_grid_line(value, top, width) for value in grid]
    for index, column in enumerate(columns):
        x, y = _LEFT + index * room, _y(column.value, top)
        parts.append(
            f'<rect class="column" x="{x:.2f}" y="{y:.2f}" width="{room - gap:.2f}" '
            f'height="{_HEIGHT - _BOTTOM - y:.2f}"><title>{escape(column.title)}</title></rect>'
        )
        if index % every == 0:
            parts.append(f'<text class="tick" x="{x:.2f}" y="{_HEIGHT - 6}">{escape(column.label)}</text>')
    return _svg(width, what, parts)


def share_chart(shares: Sequence[tuple[str, float]], what: str) -> str:
    """One bar of the whole width, cut by shares that sum to one; part k has the style class `partk`."""
    parts, x = [], 0.0
    for index, (label, share) in enumerate(shares):
        width = share * WIDE
        if width > 0:
            parts.append(
                f'<rect class="part{index}" x="{x:.2f}" y="0" width="{width:.2f}" height="18">'
                f"<title>{escape(label)}: {share:.2%}</title></rect>"
            )
        x += width
    return _svg(WIDE, what, parts, height=18)


def _round_step(top: int) -> int:
    """A whole step of 1, 2 or 5 times a power of ten; three to seven make `top`, or fewer of 1."""
    power = int(10 ** math.floor(math.log10(max(1.0, top / 3))))
    return max([1, *(power * factor for factor in (1, 2, 5) if power * factor <= top / 3)])


def _y(value: int, top: int) -> float:
    return _HEIGHT - _BOTTOM - value / max(1, top) * (_HEIGHT - _BOTTOM - _TOP)


def _grid_line(value: int, top: int, width: int) -> str:
    y = _y(value, top)
    return (
        f'<line class="grid" x1="{_LEFT}" y1="{y:.2f}" x2="{width}" y2="{y:.2f}"/>'
        f'<text class="tick end" x="{_LEFT - 6}" y="{y + 4:.2f}">{short(value)}</text>'
    )


def _svg(width: int, what: str, parts: Sequence[str], height: int = _HEIGHT) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(what)}">'
    return head + "".join(parts) + "</svg>"
