"""The time in line, and the pieces of a run's time that give it theirs."""

from __future__ import annotations

from typing import Any

import pytest

from monitoring.journal import Record
from monitoring.time_in_line import Piece, Span, spans_in_line, with_line

S = 1_000_000


def queued(**fields: Any) -> Record:
    return {"event": "queued", "attempt": 1, "time": 9.0, **fields}


@pytest.mark.parametrize(
    ("records", "spans"),
    [
        ([], []),
        ([queued(since=1.0, seconds=2.5)], [(1 * S, 3_500_000)]),
        ([{"event": "start", "attempt": 1, "time": 1.0, "since": 1.0, "seconds": 2.0}], []),
        ([queued(since=5.0, seconds=1.0), queued(since=1.0, seconds=2.0)], [(1 * S, 3 * S), (5 * S, 6 * S)]),
        ([queued(since=1.0, seconds=2.0)] * 2, [(1 * S, 3 * S)]),
        ([queued(since=1.0, seconds=4.0), queued(since=3.0, seconds=4.0)], [(1 * S, 5 * S), (5 * S, 7 * S)]),
        ([queued(since=1.0, seconds=0.0), queued(since=1.0, seconds=-3.0), queued(), queued(since=None)], []),
    ],
)  # fmt: skip
def test_spans_in_line_are_in_order_and_each_moment_counts_once(records: list[Record], spans: list[Span]) -> None:
    assert spans_in_line(records) == spans


@pytest.mark.parametrize(
    ("spans", "pieces"),
    [
        ([], [("idle", 100, 50)]),
        ([(0, 100), (150, 200)], [("idle", 100, 50)]),
        ([(90, 160)], [("line", 100, 50)]),
        ([(110, 120)], [("idle", 100, 10), ("line", 110, 10), ("idle", 120, 30)]),
        ([(90, 110), (140, 160)], [("line", 100, 10), ("idle", 110, 30), ("line", 140, 10)]),
    ],
)
def test_pieces_of_idle_time_give_what_they_share_with_the_line(spans: list[Span], pieces: list[Piece]) -> None:
    given = with_line([("idle", 100, 50)], spans, "line", frozenset({"idle"}))
    assert [piece for piece in given if piece[2] > 0] == pieces


def test_pieces_of_other_time_give_nothing() -> None:
    assert list(with_line([("steps", 100, 50)], [(0, 500)], "line", frozenset({"idle"}))) == [("steps", 100, 50)]
