from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from cluster.prepare_view import LINE_SECONDS, PrepareView
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


def test_view_of_nothing_to_do_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    screen = io.StringIO()
    with PrepareView(Console(file=screen, force_terminal=True)) as view:
        view.show(PrepareProgress("done", 4, 4, 4000, 4))
    assert screen.getvalue() == ""
    assert not caplog.records
