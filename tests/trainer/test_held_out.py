from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data_shards.errors import DataError
from data_shards.shard_view import ShardView
from tests.trainer.trained_run import T, make_run
from trainer.evaluate import held_out_batches, summed_loss
from trainer.held_out import LossSums, held_out_scores, perplexity
from trainer.trained import Trained, open_trained

EVERYTHING = 1 << 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return open_trained(make_run(tmp_path_factory.mktemp("run")))


def losses_by_hand(trained: Trained, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Loss of each held-out label of a source, by place in its row, [rows, T]; and the labels."""
    losses, labels = [], []
    for shard in trained.dataset.split("val"):
        if shard.source == source:
            tokens = torch.from_numpy(ShardView(trained.dataset, shard).tokens(0, shard.tokens).astype(np.int64))
            for first in range(0, (shard.tokens - 1) // T * T, T):
                row = tokens[first : first + T + 1]
                with torch.no_grad():
                    losses.append(F.cross_entropy(trained.model()(row[None, :-1])[0], row[1:], reduction="none"))
                labels.append(row[1:])
    return torch.stack(losses).double().numpy(), torch.stack(labels).numpy()


def test_held_out_scores_by_source_and_position_are_those_made_by_hand(trained: Trained) -> None:
    scores = held_out_scores(trained, EVERYTHING)
    tokenizer = trained.tokenizer()
    assert len(scores["sources"]) == 2
    all_losses = []
    for source, own in scores["sources"].items():
        losses, labels = losses_by_hand(trained, source)
        text = "".join(tokenizer.decode(row[row != tokenizer.eot_id]) for row in labels)
        all_losses.append(losses)
        assert own["tokens"] == losses.size
        assert own["loss"] == pytest.approx(losses.mean(), rel=1e-5)
        assert own["perplexity"] == pytest.approx(math.exp(losses.mean()), rel=1e-4)
        # Characters cut by a row's border are no text of their own: the bytes are counted from the tokens.
        assert own["bytes"] == pytest.approx(len(text.encode()), rel=0.02)
        assert own["bits_per_byte"] == pytest.approx(losses.sum() / math.log(2) / own["bytes"], rel=1e-5)
    everything = np.concatenate(all_losses)
    assert scores["loss"] == pytest.approx(everything.mean(), rel=1e-5)
    for bucket, columns in zip(scores["positions"], ((0, 1), (1, 3), (3, 7), (7, 15), (15, 16)), strict=True):
        part = everything[:, slice(*columns)]
        assert (bucket["first"], bucket["tokens"]) == (columns[0] + 1, part.size)
        assert bucket["loss"] == pytest.approx(part.mean(), rel=1e-5)
    assert [bucket["last"] for bucket in scores["positions"]] == [1, 3, 7, 15, 31]


def test_held_out_scores_agree_with_the_loss_of_training(trained: Trained) -> None:
    scores = held_out_scores(trained, EVERYTHING)
    batches = held_out_batches(trained.config, trained.dataset, max_tokens=EVERYTHING)
    total, labels = summed_loss(trained.model(), batches(), torch.device("cpu"))
    assert scores["tokens"] == labels
    assert scores["loss"] == pytest.approx(total / labels, rel=1e-5)
    assert 0 < scores["unigram_loss"] < math.log(trained.dataset.vocab_size)


def test_held_out_scores_take_so_many_tokens_of_each_source(trained: Trained) -> None:
    scores = held_out_scores(trained, 3 * T)
    assert [own["tokens"] for own in scores["sources"].values()] == [3 * T, 3 * T]


def test_held_out_scores_of_documents_apart_count_positions_in_them(tmp_path: Path) -> None:
    trained = open_trained(make_run(tmp_path, packing="documents"))
    scores = held_out_scores(trained, EVERYTHING)
    batches = held_out_batches(trained.config, trained.dataset, max_tokens=EVERYTHING)
    total, labels = summed_loss(trained.model(), batches(), torch.device("cpu"))
    assert (scores["loss"], scores["tokens"]) == (pytest.approx(total / labels, rel=1e-5), labels)
    rows = sum(int(batch.real.sum()) for batch in batches())
    assert scores["positions"][0]["tokens"] > rows  # each document begins anew, not each row alone


def test_held_out_scores_name_a_source_that_is_too_short(tmp_path: Path) -> None:
    trained = open_trained(make_run(tmp_path))
    short = min(trained.dataset.split("val"), key=lambda shard: shard.tokens)
    kept = [shard for shard in trained.dataset.shards if shard != short]
    cut = replace(short, tokens=T, source="short")
    part = replace(trained, dataset=replace(trained.dataset, shards=(*kept, cut)))
    scores = held_out_scores(part, EVERYTHING)
    assert scores["sources"]["short"]["tokens"] == 0
    assert scores["sources"]["short"]["bits_per_byte"] is None
    assert scores["tokens"] > 0
    nothing = replace(trained, dataset=replace(trained.dataset, shards=trained.dataset.split("train")))
    with pytest.raises(DataError, match="no whole sequence"):
        held_out_scores(nothing, EVERYTHING)


def test_loss_sums_merge_to_the_sums_of_all() -> None:
    losses, seen, sizes = torch.arange(1.0, 9.0).double(), torch.arange(1, 9), np.arange(8)
    whole, first, second = LossSums(), LossSums(), LossSums()
    whole.add(losses, seen, sizes)
    first.add(losses[:3], seen[:3], sizes[:3])
    second.add(losses[3:], seen[3:], sizes[3:])
    first.merge(second)
    assert first == whole
    assert whole.positions() == [
        {"first": 1, "last": 1, "loss": 1.0, "tokens": 1},
        {"first": 2, "last": 3, "loss": 2.5, "tokens": 2},
        {"first": 4, "last": 7, "loss": 5.5, "tokens": 4},
        {"first": 8, "last": 15, "loss": 8.0, "tokens": 1},
    ]


def test_perplexity_of_a_huge_loss_is_infinite() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(1e4) == math.inf
