"""A classifier and an encoder-decoder from records to a trained run, as users start them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from monitoring.journal import read_records
from monitoring.mlflow_store import MlflowClient
from monitoring.settings import default_tracking_uri
from tests.end_to_end.headrace import headrace, run_file
from trainer.classification_report import classification_report
from trainer.trained import open_trained

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(500)]

WORDS = {
    "water": "river wheel mill race tide".split(),  # noqa: SIM905
    "stone": "grind grain quarry slate rock".split(),  # noqa: SIM905
    "sky": "cloud wind rain storm sun".split(),  # noqa: SIM905
}
TRAIN = {"max_steps": 60, "global_batch_size": 8, "micro_batch_size": 2, "lr": 3e-3}
TOKENIZER = {"tokenizer": {"train": "bpe", "vocab_size": 320}, "val_fraction": 0.15}


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def labelled(texts: int) -> list[dict[str, Any]]:
    """Texts of which most words are their class's; the classes are of unequal size."""
    generator, every = random.Random(0), [word for words in WORDS.values() for word in words]
    records = []
    for number in range(texts):
        label = generator.choices(list(WORDS), [6, 3, 1])[0]
        words = [generator.choice(WORDS[label] if generator.random() < 0.6 else every) for _ in range(8)]
        records.append({"text": f"{number} " + " ".join(words), "label": label})
    return records


def final_evaluation(out_dir: Path) -> dict[str, Any]:
    return [record for record in read_records(out_dir) if record.get("event") == "eval" and record["final"]][-1]


def test_run_on_labelled_texts_trains_a_classifier_and_tells_its_confusion_matrix(tmp_path: Path) -> None:
    write_records(tmp_path / "texts.jsonl", labelled(900))
    sources = [{"path": "texts.jsonl", "task": {"text": "text", "label": "label"}}]
    file = run_file(
        tmp_path,
        "classes",
        data={"sources": sources, **TOKENIZER},
        model__max_seq_len=64,
        train={**TRAIN, "class_weights": "balanced"},
        eval={"interval": 30},
    )
    done = headrace("run", file, deadline_seconds=400)
    assert done.returncode == 0, done.stderr
    out_dir = tmp_path / "runs" / "classes"
    final = final_evaluation(out_dir)
    assert final["classes"] == sorted(WORDS)
    assert final["val_accuracy"] > 0.85 and final["val_macro_f1"] > 0.7
    assert final["val_loss"] < final["unigram_loss"] - 0.3
    assert "held-out accuracy" in done.stdout and f" evaluate {out_dir}\n" in done.stdout
    report = classification_report(open_trained(out_dir), 1 << 20)
    assert report["confusion"] == final["confusion"]
    assert report["loss"] == pytest.approx(final["val_loss"], rel=1e-4)
    client = MlflowClient(tracking_uri=default_tracking_uri(out_dir))
    [run] = client.search_runs([client.get_experiment_by_name("headrace").experiment_id])
    assert run.data.metrics["final_val_accuracy"] == final["val_accuracy"]
    assert {"confusion.png", "confusion.json"} <= {file.path for file in client.list_artifacts(run.info.run_id)}
    exported = AutoModelForSequenceClassification.from_pretrained(out_dir / "model")
    assert exported.config.id2label == dict(enumerate(sorted(WORDS)))
    assert exported.score.weight.shape == torch.Size([3, 32])


def test_train_of_an_encoder_decoder_on_prompts_says_their_completions(tmp_path: Path) -> None:
    records = [{"prompt": f"{word} {n} ->", "completion": f" {word}"} for n in range(250) for word in ("mill", "race")]
    write_records(tmp_path / "pairs.jsonl", records)
    sources = [{"path": "pairs.jsonl", "task": {"prompt": "prompt", "completion": "completion"}}]
    file = run_file(
        tmp_path,
        "pairs",
        data={"sources": sources, **TOKENIZER},
        model={"preset": "gpt2-tiny", "n_layer": 2, "n_head": 2, "n_embd": 32, "max_seq_len": 32}
        | {"arch": "encoder_decoder", "n_encoder_layer": 1},
        train={**TRAIN, "max_steps": 160},
        eval={"interval": 50, "samples": ["mill 999 ->", "race 998 ->"], "sample_tokens": 4},
    )
    done = headrace("run", file, deadline_seconds=400)
    assert done.returncode == 0, done.stderr
    final = final_evaluation(tmp_path / "runs" / "pairs")
    assert final["val_loss"] < 0.1
    assert [sample["text"].strip() for sample in final["samples"]] == ["mill", "race"]
    assert not (tmp_path / "runs" / "pairs" / "model").exists()
