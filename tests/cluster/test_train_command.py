from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.commands.train import STOPPED_STATUS, _status
from cluster.drive import DriveResult
from cluster.gang_journal import append_event


def result(status: str, out_dir: Path) -> DriveResult:
    return DriveResult(status, cast(Any, SimpleNamespace(config=SimpleNamespace(out_dir=str(out_dir)))))


def test_stop_says_whether_there_is_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_event(tmp_path, 1, "start", step=0)
    assert _status(result("stopped", tmp_path)) == STOPPED_STATUS
    assert capsys.readouterr().out == "stopped before the first checkpoint; the same command starts at step 0\n"
    append_event(tmp_path, 1, "checkpoint", step=5)
    assert _status(result("stopped", tmp_path)) == STOPPED_STATUS
    assert capsys.readouterr().out == "stopped with a checkpoint; the same command goes on from it\n"


def test_stop_before_the_first_attempt_says_that_there_is_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _status(result("stopped", tmp_path)) == STOPPED_STATUS
    assert "before the first checkpoint" in capsys.readouterr().out


def test_good_end_is_no_stop(tmp_path: Path) -> None:
    assert _status(result("finished", tmp_path)) == 0
