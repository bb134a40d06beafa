from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from cluster.prepare_view import LINE_SECONDS, PrepareView, left_out_text
from data_shards.dataset import Dataset, UnitNote
from data_shards.prepare import PrepareProgress


def units(done: int) -> PrepareProgress:
    return PrepareProgress("units", done, 4, done * 1000, done)


def test_view_elsewhere_than_a_terminal_writes_first_last_and_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    with PrepareView(Console(file=io.StringIO()), clock=lambda: now[0]) as view:
        for done, time in enumerate([0.0, 0.1, LINE_SECONDS + 0.2, LINE_SECONDS + 0.3, LINE_SECONDS + 0.4]):
            now[0] = time
            view.show(units(done))
    assert [record.getMessage()[:18] for record in caplog.records] == [
        "prepared 0 of 4 un",
        "prepared 2 of 4 un",
        "prepared 4 of 4 un",
    ]


def test_view_on_a_terminal_draws_a_bar_with_tokens() -> None:
    screen = io.StringIO()
    with PrepareView(Console(file=screen, force_terminal=True, width=100)) as view:
        for done in range(5):
            view.show(units(done))
    assert "prepared 4,000 tokens" in screen.getvalue()
    assert "4/4" in screen.getvalue()


def test_view_shows_tokens_a_second_since_the_first_unit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = [100.0]
    with PrepareView(Console(file=io.StringIO()), clock=lambda: now[0]) as view:
        view.show(units(1))  # may be what a killed prepare did
        now[0] += 8.0
        view.show(units(3))
    assert [record.getMessage() for record in caplog.records] == [
        "prepared 1 of 4 units, 1,000 tokens",
        "prepared 3 of 4 units, 3,000 tokens, 250 a second",
    ]


def test_view_knows_whether_there_was_anything_to_do() -> None:
    with PrepareView(Console(file=io.StringIO())) as view:
        view.show(PrepareProgress("done", 4, 4, 4000, 4))
        assert not view.has_worked
        view.show(PrepareProgress("tokenizer", 0, 4, 0, 0))
        assert view.has_worked


def dataset(**notes: UnitNote) -> Dataset:
    return Dataset(Path("/data"), "f", "t", "c", 300, 0, "uint16", (), notes)


def test_left_out_text_counts_by_reason_and_names_the_list() -> None:
    text = left_out_text(
        dataset(a=UnitNote(0, {"not JSON": 2}), b=UnitNote(3, {"not JSON": 1, "invalid UTF-8": 1}), c=UnitNote(9))
    )
    assert text == "left out: 4 bad records (3 not JSON, 1 invalid UTF-8); see /data/rejects.parquet"


def test_left_out_text_of_no_bad_record_is_none() -> None:
    assert left_out_text(dataset(a=UnitNote(5))) is None


def test_view_of_nothing_to_do_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    screen = io.StringIO()
    with PrepareView(Console(file=screen, force_terminal=True)) as view:
        view.show(PrepareProgress("done", 4, 4, 4000, 4))
    assert screen.getvalue() == ""
    assert not caplog.records
