"""The tables of the recipes: which commands are given, and what is made of what they print."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recipes import measure
from recipes.measure import NAMES, RECIPES, VARIANTS, command, effort, main
from trainer.config import load_run_file


def write_journal(out_dir: Path) -> None:
    (out_dir / "journal").mkdir(parents=True, exist_ok=True)
    steps = [{"step": n, "tokens": 2000 * n, "step_seconds": 0.5} for n in (1, 2, 3)]
    lines = [json.dumps(record) + "\n" for record in ({"event": "start"}, *steps, {"event": "end"})]
    (out_dir / "journal/attempt-0001.jsonl").write_text("".join(lines))


class FakeCommands:
    """Stands for all commands: a `run` leaves a journal, the others print scores."""

    def __init__(self) -> None:
        self.given: list[list[str]] = []

    def __call__(self, words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        words = words[2:]
        self.given.append(words)
        if words[1] == "run":
            [out_dir] = [word.removeprefix("out_dir=") for word in words if word.startswith("out_dir=")]
            write_journal(Path(out_dir))
        printed = {"accuracy": 0.875, "macro_f1": 0.8, "features": "words", "cpu_seconds": 7.0, "exact": 0.5}
        return subprocess.CompletedProcess(words, 0, stdout=json.dumps(printed))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> FakeCommands:
    fake = FakeCommands()
    monkeypatch.setattr(measure.subprocess, "run", fake)
    return fake


def test_reviews_are_measured_with_their_variants_and_the_baseline(
    commands: FakeCommands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reviews", "--runs-dir", str(tmp_path)]) == 0
    rows = capsys.readouterr().out.strip().splitlines()
    assert rows[0] == "| reviews | accuracy | macro F1 | steps | tokens | seconds |"
    assert rows[2] == "| reviews | 87.5% | 0.800 | 3 | 6,000 | 2 |"
    assert [row.split(" | ")[0] for row in rows[3:5]] == ["| reviews_one_stage", "| reviews_from_nothing"]
    assert rows[5] == "| TF-IDF of words, logistic regression | 87.5% | 0.800 | | | 7 |"
    runs = [Path(words[2]).name for words in commands.given if words[1] == "run"]
    assert runs == ["reviews_text.yaml", *["reviews.yaml"] * 3]


def test_forms_are_measured_on_known_and_unseen_wordings(
    commands: FakeCommands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completions", "--runs-dir", str(tmp_path)]) == 0
    rows = capsys.readouterr().out.strip().splitlines()[2:]
    assert rows[0] == "| model | 50.0% | 50.0% | 3 | 6,000 | 2 |"
    assert rows[1:] == ["| expressions | 50.0% | 50.0% | | | |", "| nearest | 50.0% | 50.0% | | | |"]
    generated = [words[words.index("--file") + 1] for words in commands.given if words[1] == "generate"]
    assert generated == [str(RECIPES / f"corpus/forms/{part}.jsonl") for part in ("test", "unseen")]


def test_variants_are_recipes_with_fields_that_there_are() -> None:
    assert set(VARIANTS) | {"completions"} == set(NAMES)
    for variants in VARIANTS.values():
        for variant in variants:
            config = load_run_file(RECIPES / variant.file, [f"name={variant.name}", *variant.fields])
            assert bool(config.train.stages) == (variant.name == "reviews")
            assert (config.init_from is None) == (not variant.name.startswith("reviews") or "nothing" in variant.name)


def test_effort_counts_all_steps_of_the_journal(tmp_path: Path) -> None:
    write_journal(tmp_path)
    assert effort(tmp_path) == {"steps": 3, "tokens": 6000, "seconds": 1.5}


def test_command_that_fails_ends_the_measuring_with_its_status() -> None:
    with pytest.raises(SystemExit, match="ended with status 3"):
        command(["sh", "-c", "exit 3"])


def test_measuring_an_unknown_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["tweets"])
    assert refused.value.code == 2 and "found 'tweets'" in capsys.readouterr().err
