"""`headrace run` on sequences of several documents, and on pairs of neighbouring sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data_shards.sentences import sentence_pairs
from data_shards.shard_view import ShardView
from data_shards.show import show
from model.gpt import GPT
from tests.end_to_end.headrace import events, headrace, run_file, steps
from trainer.held_out import held_out_scores
from trainer.trained import Trained, open_trained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

T = 32
STEPS = 10
EVALUATED_TOKENS = 1 << 20  # more than there are

ENGLISH = (
    "Mr. Mill built a race. The water came down! Did it turn the wheel? It did, at 3.5 feet. "
    '"Grind!" said he.\n\nA stone. Another stone; the last one\n'
)
CHINESE = "水从山上来。轮子转了！“磨吧。”他说……石头磨麦子；人们吃面包。完了"


def held_out_pieces(trained: Trained) -> list[np.ndarray]:
    """The held-out sequences cut where documents begin, by the shards' own tables."""
    pieces = []
    for shard in trained.dataset.split("val"):
        view = ShardView(trained.dataset, shard)
        starts = view.document_starts()
        for first in range(0, (shard.tokens - 1) // T * T, T):
            inside = starts[(starts > first) & (starts <= first + T)] - first
            pieces += np.split(view.tokens(first, first + T + 1).astype(np.int64), inside)
    return [piece for piece in pieces if len(piece) > 1]


@torch.no_grad()
def loss_apart(model: GPT, pieces: list[np.ndarray]) -> float:
    """Mean cross-entropy over the labels of the pieces, each in a forward pass of its own."""
    total = sum(
        float(F.cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="sum"))
        for ids in map(torch.from_numpy, pieces)
    )
    return total / sum(len(piece) - 1 for piece in pieces)


def check_run(file: Path, out_dir: Path) -> Trained:
    """Run the file; its held-out losses, then and afterwards, are those of each document by itself."""
    done = headrace("run", file)
    assert done.returncode == 0, done.stderr
    assert [record["step"] for record in steps(out_dir)] == list(range(1, STEPS + 1))
    trained = open_trained(out_dir)
    pieces = held_out_pieces(trained)
    assert len(pieces) > len(trained.dataset.split("val"))
    wanted = loss_apart(trained.model(), pieces)
    assert events(out_dir, "eval")[-1]["val_loss"] == pytest.approx(wanted, rel=1e-5)
    scores = held_out_scores(trained, EVALUATED_TOKENS)
    assert scores["loss"] == pytest.approx(wanted, rel=1e-5)
    assert scores["tokens"] == sum(len(piece) - 1 for piece in pieces)
    assert wanted < steps(out_dir)[0]["loss"]
    return trained


def test_run_with_documents_sees_each_by_itself(tmp_path: Path) -> None:
    file = run_file(tmp_path, "apart", train__max_steps=STEPS, eval__max_tokens=EVALUATED_TOKENS)
    text = file.read_text().replace("data:\n", "data:\n  packing: documents\n", 1)
    file.write_text(text)
    check_run(file, tmp_path / "runs/apart")


@pytest.mark.long
def test_run_with_sentence_pairs_makes_documents_of_two_neighbours(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    texts = {
        f"{n}-{name}": text.replace("A stone", f"Stone {n}").replace("石头", f"石头{n}")
        for n in range(12)
        for name, text in (("en", ENGLISH), ("zh", CHINESE))
    }
    for name, text in texts.items():
        (corpus / f"{name}.txt").write_text(text)
    file = run_file(tmp_path, "pairs", train__max_steps=STEPS, eval__max_tokens=EVALUATED_TOKENS, cluster__workers=1)
    text = file.read_text().replace("document: line", "document: file")
    file.write_text(text.replace("data:\n", "data:\n  packing: sentence_pairs\n", 1))
    dataset = check_run(file, tmp_path / "runs/pairs").dataset
    found = [
        show(dataset, number, split)
        for split in ("train", "val")
        for number in range(sum(shard.documents for shard in dataset.split(split)))
    ]
    assert sorted(found) == sorted(pair for text in texts.values() for pair in sentence_pairs(text))
    assert "Mr. Mill built a race. The water came down! " in found
    assert "水从山上来。轮子转了！" in found
