"""`headrace status` and `headrace sync`, up to MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.cli import build_parser
from cluster.run_holder import run_holder
from monitoring.runs import create_run_folder
from tests.monitoring.journals import end, start, step, write_journal
from trainer.errors import TrainError
from trainer.run_lock import run_lock


@pytest.fixture
def out_dir(tmp_path: Path) -> Path:
    """The folder of a run that has done six of ten steps."""
    create_run_folder(tmp_path / "demo", "id", "demo", "monitoring: {tracking_uri: 'http://127.0.0.1:9'}\n")
    write_journal(tmp_path / "demo", start(), *[step(i) for i in range(1, 7)])
    return tmp_path / "demo"


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    args = build_parser().parse_args(words)
    assert args.handler(args) == 0
    return capsys.readouterr().out


def test_status_says_who_drives_the_run_and_does_not_hold_it(out_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with run_lock(out_dir):
        text = answer(capsys, "status", str(out_dir))
        values = json.loads(answer(capsys, "status", str(out_dir), "--json"))
        with pytest.raises(TrainError), run_lock(out_dir):
            pass
    assert values["state"] == "stalled"  # the made-up steps are of long ago
    assert f"state       stalled by {values['detail'].split(';')[0].removeprefix('by ')}" in text
    assert "step        6 of 10" in text
    with run_lock(out_dir):  # a look leaves no lock behind
        assert run_holder(out_dir) is not None


def test_status_by_name_of_a_finished_run(out_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_journal(out_dir, end(6))
    values = json.loads(answer(capsys, "status", "demo", "--runs-dir", str(out_dir.parent), "--json"))
    assert (values["name"], values["state"], values["step"]) == ("demo", "finished", 6)


def test_run_holder_nobody_and_never_driven(out_dir: Path) -> None:
    assert run_holder(out_dir) is None
    with run_lock(out_dir):
        pass
    assert run_holder(out_dir) is None
