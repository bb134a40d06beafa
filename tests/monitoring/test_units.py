"""Quantities as people read them."""

import pytest

from monitoring.units import duration, short


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0"), (12, "12"), (1448, "1.45k"), (20e6, "20M"), (3e9, "3G"), (1.5e12, "1.5T"), (0.5, "0.5")],
)
def test_short_numbers_have_three_digits(number: float, expected: str) -> None:
    assert short(number) == expected


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3723, "1:02:03")])
def test_duration_is_told_in_hours_minutes_and_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text
