"""Curves drawn with characters."""

from __future__ import annotations

import numpy as np
import pytest

from monitoring.line_chart import line_chart, sparkline


def test_line_chart_falling_curve_goes_from_the_top_left_to_the_bottom_right() -> None:
    x = np.arange(1.0, 101.0)
    lines = line_chart(x, 10 - x / 20, [(50.0, 9.9), (100.0, 5.1)], 60, 8)
    assert len(lines) == 9
    assert {len(line) for line in lines} == {60}
    body = [line[9:] for line in lines[:-1]]
    assert body[0][1] not in "\u2800 " and body[7][-2] not in "\u2800 "
    assert body[7][:40].strip("\u2800") == ""
    assert [(row, line.index("o")) for row, line in enumerate(body) if "o" in line] == [(0, 25), (7, 50)]
    assert lines[0].split()[0] == "9.900" and lines[7].split()[0] == "5.000"
    assert lines[-1].split() == ["0", "100", "tokens"]


def test_line_chart_rising_curve_is_joined_where_points_are_few() -> None:
    lines = line_chart(np.array([0.0, 100.0]), np.array([1.0, 2.0]), [], 49, 5)
    columns = list(zip(*(line[9:] for line in lines[:-1]), strict=True))
    assert all(any(cell != "\u2800" for cell in column) for column in columns)


@pytest.mark.parametrize("values", [[], [np.nan, np.inf]])
def test_line_chart_without_values_is_empty(values: list[float]) -> None:
    lines = line_chart(np.arange(float(len(values))), np.array(values), [], 40, 4)
    assert len(lines) == 5
    assert lines[0].strip() == "no steps yet"


def test_line_chart_single_value_and_bad_numbers_are_drawn() -> None:
    lines = line_chart(np.array([1.0, 2.0]), np.array([3.0, np.nan]), [(2.0, np.nan)], 40, 4)
    assert any(cell not in "\u2800 " for cell in "".join(line[9:] for line in lines[:-1]))


@pytest.mark.parametrize(
    ("values", "width", "text"),
    [([1, 2, 4, 8], 4, "▁▂▄█"), ([1, 3, 8, 8], 2, "▂█"), ([5], 10, "█"), ([np.nan], 5, ""), ([0, 0], 5, "  ")],
)
def test_sparkline_bars_rise_from_zero(values: list[float], width: int, text: str) -> None:
    assert sparkline(np.array(values, np.float64), width) == text
