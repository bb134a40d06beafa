from __future__ import annotations

import pytest

from trainer.snapshots import affordable_interval


@pytest.mark.parametrize(
    ("copy_seconds", "step_seconds", "interval"), [(0.01, 1.0, 1), (0.02, 1.0, 1), (0.021, 1.0, 2), (0.5, 0.1, 250)]
)
def test_interval_keeps_copying_under_two_percent(copy_seconds: float, step_seconds: float, interval: int) -> None:
    assert affordable_interval(copy_seconds, step_seconds) == interval
