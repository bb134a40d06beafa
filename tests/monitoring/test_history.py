"""What is believed where an attempt that was given up goes on writing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.history import Fence, believed, read_fence
from monitoring.journal import Record, last_values
from tests.monitoring.journals import START_TIME, end, start, step

TAKEN = {1: START_TIME + 1000, 2: START_TIME + 1007}


def test_fence_older_attempt_after_a_newer_one_was_taken_is_not_believed() -> None:
    records = [*[step(i) for i in range(1, 12)], end(11)]
    kept = believed(records, Fence(TAKEN))
    assert [record["step"] for record in kept] == [1, 2, 3, 4, 5, 6]
    assert believed([step(9, 2)], Fence(TAKEN)) == [step(9, 2)]


def test_fence_step_that_the_newer_attempt_went_on_from_is_believed_whatever_the_clock_says() -> None:
    kept = believed([step(i) for i in range(1, 12)], Fence(TAKEN, {2: 8}))
    assert [record["step"] for record in kept] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_fence_words_of_watchers_come_late_and_are_believed() -> None:
    death: Record = {"event": "rank_dead", "attempt": 1, "time": START_TIME + 1008, "rank": 1}
    assert believed([death, {**death, "event": "eval", "step": 9}], Fence(TAKEN)) == [death]


@pytest.mark.parametrize("torn", ["", '{"host": "a", "ti', '{"host": "a"}', "[]"])
def test_read_fence_file_that_is_not_whole_counts_by_its_date(tmp_path: Path, torn: str) -> None:
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / "0001.json").write_text(json.dumps({"host": "a", "pid": 1, "time": 5.0}))
    torn_path = tmp_path / "attempts" / "0002.json"
    torn_path.write_text(torn)
    (tmp_path / "attempts" / "0002.resumed.json").write_text(json.dumps({"step": 40}))
    (tmp_path / "attempts" / "0003.resumed.json").write_text(torn)
    (tmp_path / "attempts" / "0001.json.tmp").write_text("{}")
    assert read_fence(tmp_path) == Fence({1: 5.0, 2: torn_path.stat().st_mtime}, {2: 40})
    assert read_fence(tmp_path / "none") == Fence()


def test_last_values_step_that_a_later_attempt_did_not_build_upon_does_not_count() -> None:
    records = [*[step(i) for i in range(1, 10)], start(2, 6), step(7, 2)]
    assert {n: r["attempt"] for n, r in last_values(records).items()} == {**dict.fromkeys(range(1, 7), 1), 7: 2}


def test_last_values_going_back_within_an_attempt_undoes_its_steps() -> None:
    back: Record = {"event": "bad_numbers", "attempt": 1, "time": START_TIME, "step": 5, "resumed_step": 3}
    records = [start(), *[step(i) for i in range(1, 6)], back, step(4, loss=1.0)]
    assert [(n, r["loss"]) for n, r in last_values(records).items()][2:] == [(3, 9.0 - 0.03), (4, 1.0)]


@given(
    lives=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_last_values_over_any_deaths_and_late_writers_are_the_steps_of_the_line_of_attempts(
    lives: list[tuple[int, int, int]], order: object
) -> None:
    """Each attempt runs some steps, the next goes back by some; late writers go on where they were."""
    records: list[Record] = []
    truth: dict[int, int] = {}
    at = 0
    for attempt, (ran, back, late) in enumerate(lives, 1):
        at = max(0, at - back)
        truth = {n: who for n, who in truth.items() if n <= at}
        records.append(start(attempt, at))
        for n in range(at + 1, at + ran + late + 1):
            records.append(step(n, attempt))
            if n <= at + ran:
                truth[n] = attempt
        at += ran
    # The newest attempt is outrun by one that has not done a step yet.
    records.append(start(len(lives) + 1, at))
    order.shuffle(records)  # type: ignore[attr-defined]
    assert {n: r["attempt"] for n, r in last_values(records).items()} == truth
