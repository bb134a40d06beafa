"""Ledgers: what a run was trained on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitoring.history import Fence
from monitoring.journal import Record
from monitoring.ledger import compare_ledgers, ledger, problems
from tests.monitoring.journals import START_TIME, TOKENS_PER_STEP, start, step


def run_of(steps: int) -> list[Record]:
    return [start(), *[step(i) for i in range(1, steps + 1)]]


def test_ledger_of_a_restarted_run_equals_the_undisturbed_one() -> None:
    rough = [*run_of(7), start(2, 5), *[step(i, 2) for i in range(6, 11)]]
    difference = compare_ledgers(ledger(run_of(10)), ledger(rough))
    assert difference.is_empty and difference.common_steps == 10
    assert problems(ledger(rough)) == []


@given(lost=st.integers(1, 10), doubled=st.integers(2, 10))
def test_problems_step_lost_or_doubled_is_named(lost: int, doubled: int) -> None:
    gap = ledger([record for record in run_of(11) if record.get("step") != lost])
    assert problems(gap) == [f"steps without a record: {lost}"]
    twice = [
        {**record, "sequence_hash": step(1)["sequence_hash"]} if record.get("step") == doubled else record
        for record in run_of(10)
    ]
    assert problems(ledger(twice)) == [f"step {doubled} has the sequences of step 1"]


def test_problems_tokens_that_do_not_rise_by_the_global_batch() -> None:
    records = [*run_of(3), step(4, tokens=4 * TOKENS_PER_STEP + 1), start(2, 4, tokens_per_step=1), step(5, 2)]
    assert problems(ledger(records)) == [
        "step 4 adds 2,049 tokens, its global batch has 2,048",
        "step 5 adds 2,047 tokens, its global batch has 1",
    ]


def test_problems_many_lost_steps_are_counted() -> None:
    [told] = problems(ledger([start(), step(1), step(9)]))
    assert told == "steps without a record: 2, 3, 4, 5, 6 and 2 more"


@given(data_at=st.integers(1, 12), loss_at=st.integers(1, 12), steps=st.integers(1, 12))
def test_compare_ledgers_first_difference(data_at: int, loss_at: int, steps: int) -> None:
    other = [
        {
            **record,
            **({"sequence_hash": "f" * 15 + f"{n:x}"} if n >= data_at else {}),
            **({"loss_hex": "x"} if n >= loss_at else {}),
        }
        for record in run_of(steps)
        for n in [record.get("step", 0)]
    ]
    difference = compare_ledgers(ledger(run_of(10)), ledger(other))
    common = min(10, steps)
    assert difference.first_step_of_other_data == (data_at if data_at <= common else None)
    assert difference.first_step_of_other_loss == (loss_at if loss_at <= common else None)
    assert difference.only_in_first == tuple(range(steps + 1, 11))
    assert difference.only_in_second == tuple(range(11, steps + 1))
    assert difference.is_empty == (steps == 10 and data_at > 10 and loss_at > 10)


def test_ledger_outrun_attempt_is_left_out_and_excluded_ranges_are_merged() -> None:
    excluded: Record = {"event": "excluded", "attempt": 1, "time": START_TIME + 1001, "start": 8, "end": 9}
    bad: Record = {"event": "bad_numbers", "attempt": 1, "time": START_TIME + 1001, "step": 3, "excluded": [[9, 11]]}
    book = ledger([*run_of(10), excluded, bad], Fence({2: START_TIME + 1006}))
    assert list(book.entries) == [1, 2, 3, 4, 5]
    assert book.excluded == ((8, 9), (9, 11))
    whole: Record = {**excluded, "end": 11}
    assert compare_ledgers(book, ledger([*run_of(5), whole])).is_empty
    assert not compare_ledgers(book, ledger(run_of(5))).is_empty
