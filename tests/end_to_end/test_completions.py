"""A run on prompts and completions: what is learned, and what is told of it. Its rank runs without Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cluster.cli import main
from data_shards.loss_bit import counted_tokens, token_ids
from tests.data_shards.records import COMPLETION, reversal, stored_examples, write_records
from tests.end_to_end.headrace import events, run_file, steps
from tests.faults.rank_world import Start, run_files
from trainer.held_out import held_out_scores
from trainer.trained import Trained, open_trained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

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


def test_run_on_completions_learns_them_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out_dir = completions_run(tmp_path), tmp_path / "runs/completions"
    assert run_files(tmp_path / "jobs", [Start(file, world_size=1)])[0]["status"] == 0
    assert [record["step"] for record in steps(out_dir)] == list(range(1, STEPS + 1))
    trained = open_trained(out_dir)
    wanted, number = completion_loss(trained)
    assert events(out_dir, "eval")[-1]["val_loss"] == pytest.approx(wanted, rel=1e-5)
    scores = held_out_scores(trained, 1 << 20)
    assert scores["loss"] == pytest.approx(wanted, rel=1e-5)
    assert scores["tokens"] == number
    assert wanted < 0.75 * steps(out_dir)[0]["loss"]
    assert main(["data", "show", str(tmp_path / "data"), "--sequence", "--file", str(file)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("⟦") == shown.count("<|endoftext|>⟧") >= 1
    assert main(["data", "stats", str(tmp_path / "data")]) == 0
    assert "examples in rows of 32 tokens, of which" in capsys.readouterr().out
