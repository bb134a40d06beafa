"""The held-out loss of a trained model in parts: by source and by position, and per byte of text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_shards.dataset import Dataset
from data_shards.evaluation import EvaluationBatch
from data_shards.pool import sequence_counts
from data_shards.stats import unigram_loss
from model.gpt import GPT
from trainer.evaluate import ROWS_AT_ONCE, held_out_batches, label_ids
from trainer.model_input import counted_labels, model_input
from trainer.scoring import rows_at_once
from trainer.trained import Trained


@dataclass
class LossSums:
    """Sums over labels, of which the means are made. Positions go by powers of two: bucket k has those of 2**k to
    2**(k + 1) - 1 tokens that the model saw before the label, in its document where documents are apart."""

    loss: float = 0.0  # nats
    tokens: int = 0
    bytes: int = 0  # of the text that the labels stand for, in UTF-8; end marks have none
    by_position: dict[int, tuple[float, int]] = field(default_factory=dict)  # bucket: nats, tokens

    def add(self, loss_n: Tensor, seen_n: Tensor, bytes_n: np.ndarray) -> None:
        """Labels with these losses (float64 [N]), tokens seen before each (int64 [N], at least 1), and bytes."""
        self.loss += float(loss_n.sum())
        self.tokens += len(loss_n)
        self.bytes += int(bytes_n.sum())
        buckets_n = torch.log2(seen_n.double()).long()  # exact: powers of two have exact logarithms
        for bucket in sorted(set(buckets_n.tolist())):
            chosen = loss_n[buckets_n == bucket]
            loss, tokens = self.by_position.get(bucket, (0.0, 0))
            self.by_position[bucket] = loss + float(chosen.sum()), tokens + len(chosen)

    def merge(self, other: LossSums) -> None:
        """Add another's sums."""
        self.loss += other.loss
        self.tokens += other.tokens
        self.bytes += other.bytes
        for bucket, (loss, tokens) in other.by_position.items():
            own_loss, own_tokens = self.by_position.get(bucket, (0.0, 0))
            self.by_position[bucket] = own_loss + loss, own_tokens + tokens

    def to_dict(self) -> dict[str, Any]:
        """loss (nats per token), perplexity, bits_per_byte (None of no text), tokens, bytes."""
        loss = self.loss / max(self.tokens, 1)
        return {
            "loss": loss,
            "perplexity": perplexity(loss),
            "bits_per_byte": self.loss / math.log(2) / self.bytes if self.bytes else None,
            "tokens": self.tokens,
            "bytes": self.bytes,
        }

    def positions(self) -> list[dict[str, Any]]:
        """For each bucket: first and last number of tokens seen, the loss there, and its tokens."""
        return [
            {"first": 2**bucket, "last": 2 ** (bucket + 1) - 1, "loss": loss / tokens, "tokens": tokens}
            for bucket, (loss, tokens) in sorted(self.by_position.items())
        ]


def perplexity(loss: float) -> float:
    """exp(loss); infinite where that is too large for a float."""
    return math.exp(loss) if loss < 700 else math.inf


def held_out_scores(trained: Trained, max_tokens: int) -> dict[str, Any]:
    """Loss, perplexity and bits per byte on the held-out documents, whole, by source and by position.

    Of each source the first `max_tokens` are taken; a source with less than one sequence is named with 0 tokens. The
    whole is the mean over all labels that were taken. `unigram_loss` is the unigram model's on the same labels.
    Raises DataError if no source has a whole sequence, or a file is damaged.
    """
    model, token_bytes = trained.model(), trained.tokenizer().token_bytes
    parts = source_parts(trained.dataset)
    has_any = any(has_sequence(part, trained.config.seq_len) for part in parts.values())
    whole, by_source, labels = LossSums(), {}, []
    for source, part in parts.items():
        sums = LossSums()
        if has_sequence(part, trained.config.seq_len) or not has_any:  # the reader refuses it if none has any
            rows = rows_at_once(trained.config.seq_len, model.config.vocab_size, most=ROWS_AT_ONCE)
            batches = held_out_batches(trained.config, part, max_tokens=max_tokens, micro_batch=rows)
            sums = summed_losses(model, batches(), token_bytes)
            labels.append(label_ids(batches()))
        whole.merge(sums)
        by_source[source] = sums.to_dict()
    unigram = unigram_loss(trained.dataset, np.concatenate(labels), on_bad_shard=trained.config.data.on_bad_shard)
    return {**whole.to_dict(), "unigram_loss": unigram, "sources": by_source, "positions": whole.positions()}


def source_parts(dataset: Dataset) -> dict[str, Dataset]:
    """For each source the dataset with its held-out shards alone; the whole one where nothing is held out."""
    sources = dict.fromkeys(shard.source for shard in dataset.split("val"))
    return {
        source: replace(dataset, shards=tuple(shard for shard in dataset.split("val") if shard.source == source))
        for source in sources
    } or {"": dataset}


def has_sequence(dataset: Dataset, seq_len: int) -> bool:
    """Whether the held-out split has a shard with a whole sequence."""
    tokens = np.array([shard.tokens for shard in dataset.split("val")], dtype=np.int64)
    return bool(sequence_counts(tokens, seq_len).any())


@torch.no_grad()
def summed_losses(model: GPT, batches: Iterable[EvaluationBatch], token_bytes: np.ndarray) -> LossSums:
    """Every counted label of the batches, with the model in evaluation mode. token_bytes: int64 [V], UTF-8 bytes."""
    sums = LossSums()
    for batch in batches:
        counted = counted_labels(batch)
        inputs = model_input(batch, counted, slice(None), model.wte.weight.device)
        logits_btv = inputs.logits(model)
        counted_bt = torch.from_numpy(counted).to(logits_btv.device)
        labels_n = inputs.labels_bt[counted_bt]
        loss_n = F.cross_entropy(logits_btv[counted_bt].float(), labels_n, reduction="none").double()
        positions_bt = torch.arange(counted.shape[1]).expand(counted.shape)
        if inputs.documents is not None:
            positions_bt = inputs.documents.positions_bt.cpu()
        seen_n = positions_bt[torch.from_numpy(counted)] + 1
        sums.add(loss_n.cpu(), seen_n, token_bytes[labels_n.cpu().numpy()])
    return sums
