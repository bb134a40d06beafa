"""The baseline beside the classification recipes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from recipes.baselines import main, read_records

WORDS = {"water": "river wheel mill race tide", "stone": "grind grain quarry slate rock"}


def write_texts(path: Path, seed: int, texts: int) -> Path:
    generator = random.Random(seed)
    labels = generator.choices(list(WORDS), k=texts)
    records = [{"text": " ".join(generator.choices(WORDS[label].split(), k=6)), "label": label} for label in labels]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_baseline_of_texts_that_words_tell_apart_is_always_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = write_texts(tmp_path / "train.jsonl", 1, 60), write_texts(tmp_path / "test.jsonl", 2, 20)
    assert main([str(train), str(test), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["accuracy"], scores["macro_f1"]) == (1.0, 1.0)
    assert (scores["train_texts"], scores["test_texts"], scores["classes"]) == (60, 20, 2)


def test_read_records_without_a_field_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a", "label": 1}\n\n{"text": "b"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"texts\.jsonl:3: must have 'label'"):
        read_records(path)
    assert read_records(write_texts(path, 3, 2), "label")[0][0] in WORDS
