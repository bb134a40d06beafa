from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.headrace import wait_until
from trainer.stop import (
    SIGNALS,
    StopRequest,
    ask_to_make_way,
    ask_to_stop,
    clear_make_way,
    clear_marks,
    is_stop_asked,
    is_to_make_way,
)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts back what a request does to the signals."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_stop_asked_is_told_apart_from_making_way(tmp_path: Path) -> None:
    assert (is_stop_asked(tmp_path), is_to_make_way(tmp_path)) == (False, False)
    ask_to_make_way(tmp_path)
    assert (is_stop_asked(tmp_path), is_to_make_way(tmp_path)) == (False, True)
    ask_to_stop(tmp_path)
    assert (is_stop_asked(tmp_path), is_to_make_way(tmp_path)) == (True, False)


def test_wish_for_the_place_is_taken_back_and_a_stop_stays(tmp_path: Path) -> None:
    clear_make_way(tmp_path)
    ask_to_make_way(tmp_path)
    ask_to_stop(tmp_path)
    clear_make_way(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stop"]


def test_marks_of_an_earlier_driver_are_all_cleared(tmp_path: Path) -> None:
    ask_to_make_way(tmp_path)
    ask_to_stop(tmp_path)
    clear_marks(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ask", [ask_to_stop, ask_to_make_way])
def test_request_hears_of_either_mark_where_it_watches(tmp_path: Path, handlers: None, ask: object) -> None:
    watching, other = StopRequest(tmp_path, watches_mark=True), StopRequest(tmp_path, watches_mark=False)
    assert not watching()
    assert callable(ask)
    ask(tmp_path)
    wait_until(watching, "the mark is seen", 10)
    assert not other()
