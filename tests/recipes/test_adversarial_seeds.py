"""The comparison of seeds with and without FGM: what it starts, what it reads, what it says."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recipes import adversarial_seeds
from recipes.adversarial_seeds import final_scores, main, overrides, summary
from trainer.config import load_run_file

RECIPES = Path(__file__).parents[2] / "recipes"


def write_journal(out_dir: Path, accuracy: float, final: bool = True) -> None:
    (out_dir / "journal").mkdir(parents=True)
    scores = {"val_accuracy": accuracy, "val_macro_f1": accuracy / 2}
    events = [{"step": 1, "loss": 1.0}, {"event": "eval", "final": final, **scores}]
    (out_dir / "journal/attempt-0001.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_overrides_are_fields_of_a_run_file(tmp_path: Path) -> None:
    words = overrides("fgm-3", tmp_path, 3, 0.5)
    config = load_run_file(RECIPES / "mails.yaml", words[1::2])
    assert (config.name, config.seed, config.out_dir) == ("fgm-3", 3, str(tmp_path / "fgm-3"))
    assert config.data_dir == tmp_path / "data"
    assert config.train.adversarial is not None and config.train.adversarial.epsilon == 0.5
    assert (
        load_run_file(RECIPES / "mails.yaml", overrides("plain-3", tmp_path, 3, None)[1::2]).train.adversarial is None
    )


def test_summary_has_the_difference_within_each_seed() -> None:
    plain = [{"val_accuracy": a, "val_macro_f1": 0.5} for a in (0.8, 0.9)]
    fgm = [{"val_accuracy": a, "val_macro_f1": 0.5} for a in (0.83, 0.91)]
    found = summary(plain, fgm)["val_accuracy"]
    assert found["without"]["mean"] == pytest.approx(0.85)
    assert found["with"]["sd"] == pytest.approx(0.08 / math.sqrt(2))
    assert found["gain"] == pytest.approx({"mean": 0.02, "sd": 0.02 / math.sqrt(2), "error": 0.01})


def test_command_runs_both_arms_of_each_seed_and_reads_their_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []

    def fake_run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        started.append((fields["name"], fields.get("train.adversarial.epsilon"), fields["train.epochs"]))
        write_journal(Path(fields["out_dir"]), 0.8 + 0.01 * int(fields["seed"]) + 0.02 * ("fgm" in fields["name"]))
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(adversarial_seeds.subprocess, "run", fake_run)
    asked = [str(RECIPES / "mails.yaml"), "--seeds", "1", "2", "--epsilon", "0.5", "--set", "train.epochs=1"]
    assert main([*asked, "--runs-dir", str(tmp_path), "--json"]) == 0
    assert started == [("plain-1", None, "1"), ("fgm-1", "0.5", "1"), ("plain-2", None, "1"), ("fgm-2", "0.5", "1")]
    told = json.loads(capsys.readouterr().out)
    assert [run["val_accuracy"] for run in told["fgm"]] == pytest.approx([0.83, 0.84])
    assert told["summary"]["val_accuracy"]["gain"]["mean"] == pytest.approx(0.02)


def test_command_ends_with_the_status_of_a_run_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversarial_seeds.subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 2))
    assert main([str(RECIPES / "mails.yaml"), "--runs-dir", str(tmp_path)]) == 2


def test_scores_of_a_run_that_has_not_ended_are_refused(tmp_path: Path) -> None:
    write_journal(tmp_path / "run", 0.9, final=False)
    with pytest.raises(ValueError, match="must be a finished run"):
        final_scores(tmp_path / "run")
