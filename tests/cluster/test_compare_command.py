"""`headrace compare` by its arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.cli import main
from monitoring.runs import create_run_folder
from tests.monitoring.journals import end, evaluation, start, step, write_journal


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    for name, lr in (("a", 0.1), ("b", 0.2)):
        run = create_run_folder(tmp_path / name, f"id-{name}", name, "")
        first = start(name=name, params={"train.lr": lr, "seed": 1})
        write_journal(run.out_dir, first, *[step(i) for i in range(1, 6)], evaluation(5, 6.0 + lr), end(5))
    return tmp_path


def test_compare_by_name_id_and_folder(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--runs-dir", str(runs_dir), "a", "id-b", str(runs_dir / "a"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in answer["runs"]] == ["a", "b", "a"]
    assert answer["settings"] == {"train.lr": [0.1, 0.2, 0.1]}
    assert answer["val_loss_at_equal_tokens"] == [6.1, 6.2, 6.1]
    assert answer["pairs"][0] == {"common_steps": 5, "first_step_of_other_data": None, "first_step_of_other_loss": None}


def test_compare_writes_a_page_beside_its_table(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = runs_dir / "page.html"
    assert main(["compare", "--runs-dir", str(runs_dir), "a", "b", "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "train.lr" in out and "seeds: no verdict" in out and f"page: {page}" in out
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs a run, or --search FILTER"),
        (["absent"], "must be a run's name, folder or id"),
        (["--search", "params.x = '1'"], "needs an MLflow store"),
        (["a", "--html", "absent/page.html"], "must be a file that can be written"),
    ],
)
def test_compare_wrong_input_exits_2_with_one_message(
    runs_dir: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--runs-dir", str(runs_dir), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
