from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cluster.drive import _stop_on_signal, _tell_end
from cluster.gang_journal import append_event
from tests.end_to_end.headrace import events
from trainer.attempts import take_attempt
from trainer.stop import is_stop_asked, stop_mark


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_asks_the_run_to_stop_and_a_second_one_would_end_the_driver(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    with _stop_on_signal(tmp_path):
        assert not stop_mark(tmp_path).exists()
        os.kill(os.getpid(), number)
        assert is_stop_asked(tmp_path)
        assert signal.getsignal(number) == signal.SIG_DFL
    assert signal.getsignal(number) == before


def test_signal_that_cannot_be_passed_on_is_told_and_a_second_one_would_end_the_driver(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _stop_on_signal(tmp_path / "gone"):
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert "cannot be asked to stop" in caplog.text


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_end_that_no_rank_told_is_told_by_the_driver(tmp_path: Path, status: str) -> None:
    take_attempt(tmp_path)
    _tell_end(tmp_path, status)
    [end] = events(tmp_path, "end")
    assert (end["status"], end["attempt"], end["step"]) == (status, 1, 0)


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_end_that_a_rank_told_is_not_told_again(tmp_path: Path, status: str) -> None:
    append_event(tmp_path, take_attempt(tmp_path), "end", status=status, step=3, tokens=9)
    _tell_end(tmp_path, status)
    assert [end["step"] for end in events(tmp_path, "end")] == [3]


def test_end_of_a_run_that_never_had_an_attempt_is_not_told(tmp_path: Path) -> None:
    _tell_end(tmp_path, "failed")
    assert not (tmp_path / "journal").exists()
