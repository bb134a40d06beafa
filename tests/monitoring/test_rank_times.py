"""The slowest rank."""

from __future__ import annotations

import pytest

from monitoring.journal import Record
from monitoring.rank_times import rank_metrics, slowest_rank_text


def times(*seconds: float) -> Record:
    return {"event": "rank_times", "attempt": 1, "time": 1.0, "step": 16, "seconds": list(seconds),
            "nodes": [f"n{rank}" for rank in range(len(seconds))]}  # fmt: skip


def test_slowest_rank_is_named_with_its_node_from_the_newest_event() -> None:
    text = slowest_rank_text([times(9.0, 1.0, 1.0), times(0.5, 0.25, 0.75)])
    assert text == "rank 2 on n2: 0.750 s a step by itself, the others 0.375 s"


@pytest.mark.parametrize("events", [[], [times(0.5)]])
def test_slowest_rank_of_none_or_one_is_none(events: list[Record]) -> None:
    assert slowest_rank_text(events) is None


def test_rank_metrics_are_the_slowest_and_the_middle() -> None:
    assert rank_metrics([0.1, 0.4, 0.2]) == {"rank_seconds_slowest": 0.4, "rank_seconds_median": 0.2}
