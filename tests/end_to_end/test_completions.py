"""`headrace run` on prompts and completions: what is learned, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data_shards.loss_bit import counted_tokens, token_ids
from tests.data_shards.records import COMPLETION, reversal, stored_examples, write_records
from tests.end_to_end.headrace import events, headrace, run_file, steps
from trainer.held_out import held_out_scores
from trainer.trained import Trained, open_trained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STEPS = 30


def completions_run(folder: Path) -> Path:
    write_records(folder / "corpus/words.jsonl", map(reversal, range(100, 600)))
    return run_file(
        folder,
        "completions",
        data__sources=[{"path": "corpus/words.jsonl", "task": COMPLETION}],
        train__max_steps=STEPS,
        eval__max_tokens=1 << 20,
        model__dropout=0.0,
        checkpoint__interval=STEPS,
        cluster__workers=1,
    )


@torch.no_grad()
def completion_loss(trained: Trained) -> tuple[float, int]:
    """Mean cross-entropy of the held-out completions' tokens, each example run by itself, and their number."""
    model, total, number = trained.model().eval(), 0.0, 0
    for example in stored_examples(trained.dataset, "val"):
        ids = torch.from_numpy(token_ids(example).astype(np.int64))
        counted = torch.from_numpy(counted_tokens(example))[1:]
        total += float(F.cross_entropy(model(ids[None, :-1])[0][counted], ids[1:][counted], reduction="sum"))
        number += int(counted.sum())
    return total / number, number


def test_run_on_completions_learns_them_alone(tmp_path: Path) -> None:
    file, out_dir = completions_run(tmp_path), tmp_path / "runs/completions"
    done = headrace("run", file)
    assert done.returncode == 0, done.stderr
    assert [record["step"] for record in steps(out_dir)] == list(range(1, STEPS + 1))
    trained = open_trained(out_dir)
    wanted, number = completion_loss(trained)
    assert events(out_dir, "eval")[-1]["val_loss"] == pytest.approx(wanted, rel=1e-5)
    scores = held_out_scores(trained, 1 << 20)
    assert scores["loss"] == pytest.approx(wanted, rel=1e-5)
    assert scores["tokens"] == number
    assert wanted < 0.75 * steps(out_dir)[0]["loss"]
    shown = headrace("data", "show", tmp_path / "data", "--sequence", "--file", file)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("⟦") == shown.stdout.count("<|endoftext|>⟧") >= 1
    stats = headrace("data", "stats", tmp_path / "data")
    assert "examples in rows of 32 tokens, of which" in stats.stdout
