"""Journals as columns: they say what the records say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.columns import STEP, believed_columns, columns_of, counted_steps, hash_number, values
from monitoring.history import Fence, believed
from monitoring.journal import Record, last_values
from tests.monitoring.journals import start, step


@st.composite
def journals(draw: st.DrawFn) -> list[Record]:
    """Records of some attempts, in the order of the attempts, each with a time of its own."""
    records: list[Record] = []
    for attempt in range(1, draw(st.integers(1, 4)) + 1):
        for kind, number in draw(st.lists(st.tuples(st.sampled_from("ssssgb"), st.integers(1, 6)), max_size=8)):
            time = draw(st.floats(0, 100))
            fields: dict[str, Any] = {"attempt": attempt, "time": time, "resumed_step": number - 1}
            match kind:
                case "s":
                    records.append(step(number, attempt, time=time, loss=float(len(records))))
                case "g":
                    records.append(start(**fields))
                case "b":
                    records.append({"event": "bad_numbers", "step": number, **fields})
    return records


@given(journals())
def test_counted_steps_are_the_steps_that_last_values_gives(records: list[Record]) -> None:
    columns = columns_of(records)
    kept = last_values(records)
    rows, counted = counted_steps(columns)
    assert sorted(rows["loss"].tolist()) == columns.steps["loss"][counted].tolist()
    assert rows["step"].tolist() == list(kept)
    assert rows["loss"].tolist() == [record["loss"] for record in kept.values()]


@given(
    journals(),
    st.dictionaries(st.integers(1, 5), st.floats(0, 100), max_size=4),
    st.dictionaries(st.integers(1, 5), st.integers(0, 6), max_size=3),
)
def test_believed_columns_are_those_of_the_believed_records(
    records: list[Record], taken: dict[int, float], resumed: dict[int, int]
) -> None:
    fence = Fence(taken, resumed)
    left = believed_columns(columns_of(records), fence)
    wanted = columns_of(believed(records, fence))
    assert left.steps["loss"].tolist() == wanted.steps["loss"].tolist()
    assert left.events == wanted.events


def test_columns_of_puts_attempts_in_order_and_keeps_what_records_lack() -> None:
    bare: Record = {"step": 3, "attempt": 1, "time": 7.0, "loss": None, "loss_hex": "-inf"}
    columns = columns_of([step(1, 2), start(2), bare, step(4)])
    assert columns.steps.dtype == STEP
    assert columns.steps["attempt"].tolist() == [1, 1, 2]
    assert columns.steps["line"].tolist() == [0, 1, 0]
    assert columns.event_lines == (1,)
    assert columns.steps["loss"].tolist() == [-np.inf, 9.0 - 0.04, 9.0 - 0.01]
    assert np.isnan(columns.steps["mfu"][0])
    assert columns.steps["sequence_hash"].tolist() == [0, 4, 1]
    assert values(columns.steps, "mfu").tolist() == [0.4, 0.4]
    assert len(columns) == 4


@pytest.mark.parametrize(("text", "value"), [("ff", 255), ("f" * 13 + "0", 2**52 - 1), ("", 0), (None, 0)])
def test_hash_number_is_that_of_the_first_thirteen_digits(text: str | None, value: int) -> None:
    assert hash_number(text) == value
