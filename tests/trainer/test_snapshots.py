from __future__ import annotations

import pytest

from trainer.snapshots import Patience, affordable_interval


@pytest.mark.parametrize(
    ("copy_seconds", "step_seconds", "interval"), [(0.01, 1.0, 1), (0.02, 1.0, 1), (0.021, 1.0, 2), (0.5, 0.1, 250)]
)
def test_interval_keeps_copying_under_two_percent(copy_seconds: float, step_seconds: float, interval: int) -> None:
    assert affordable_interval(copy_seconds, step_seconds) == interval


def test_patience_runs_out_once_and_comes_back_when_something_was_done() -> None:
    patience = Patience(10.0)
    asked = [(True, 1.0), (True, 9.9), (True, 10.0), (True, 0.1), (False, 0.2), (True, 0.1), (True, 10.1)]
    assert [patience.waits(*what) for what in asked] == [True, True, False, False, False, True, False]
