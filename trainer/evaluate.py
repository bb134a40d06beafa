"""Held-out loss of a model under training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch

from data_shards.dataset import Dataset
from data_shards.evaluation import EvaluationBatch, evaluation_batches
from data_shards.packing import separates_documents
from data_shards.permutation import Int64Array
from trainer.collectives import reduce_sum
from trainer.config import RunConfig
from trainer.model_input import counted_labels, model_input

Batches = Callable[[], Iterable[EvaluationBatch]]
"""Makes a rank's evaluation batches anew."""

ROWS_AT_ONCE = 8
HELD_OUT_CUT_SEED = 0
"""The held-out texts are cut alike in all runs, so that these can be compared."""


def is_cut(config: RunConfig) -> bool:
    """Whether each text is to be cut for an encoder and a decoder."""
    return config.model.shape().arch == "encoder_decoder"


def held_out_batches(
    config: RunConfig,
    dataset: Dataset,
    *,
    max_tokens: int,
    rank: int = 0,
    world: int = 1,
    micro_batch: int = ROWS_AT_ONCE,
) -> Batches:
    """A rank's batches of the run's first `max_tokens` held-out tokens; by default those of all ranks."""
    return partial(
        evaluation_batches,
        dataset,
        seq_len=config.seq_len,
        rank=rank,
        world=world,
        micro_batch=micro_batch,
        max_tokens=max_tokens,
        with_documents=separates_documents(config.data.packing),
        cut_seed=HELD_OUT_CUT_SEED if is_cut(config) else None,
    )


def label_ids(batches: Iterable[EvaluationBatch]) -> Int64Array:
    """The labels that the loss over the batches is the mean of, int64 [labels]."""
    return np.concatenate([batch.tokens[:, 1:][counted_labels(batch)] for batch in batches])


@torch.no_grad()
def summed_loss(
    model: Any, batches: Iterable[EvaluationBatch], device: torch.device, beat: Callable[[], None] | None = None
) -> tuple[float, int]:
    """Sum of the cross-entropy in nats over the batches' labels, and their number; beats with each batch."""
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    labels = 0
    for batch in batches:
        if beat is not None:
            beat()
        counted = counted_labels(batch)
        loss_sum += model_input(batch, counted, slice(None), device).loss(model)
        labels += int(counted.sum())
    return float(loss_sum), labels


def evaluate(engine: Any, batches: Batches, beat: Callable[[], None]) -> float:
    """Mean cross-entropy in nats per label over the batches of all ranks, without dropout; beats with each batch.

    Every rank must call it, with equally many batches. 0.0 of no labels.
    """
    engine.eval()
    loss_sum, labels = summed_loss(engine.module, batches(), engine.device, beat)
    engine.train()
    total_loss, total_labels = reduce_sum([loss_sum, float(labels)], engine.device)
    return total_loss / max(total_labels, 1.0)
