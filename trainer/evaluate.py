"""Held-out loss of a model under training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from trainer.process_group import reduce_sum

Batches = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]
"""Makes this rank's evaluation batches anew: (tokens int64 [m, T+1], real bool [m])."""


@torch.no_grad()
def evaluate(engine: Any, batches: Batches, beat: Callable[[], None]) -> float:
    """Mean cross-entropy in nats per token over the batches of all ranks, without dropout; beats with each batch.

    Every rank must call it, with equally many batches.
    """
    device = engine.device
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    tokens_seen = 0
    engine.eval()
    for rows, real in batches():
        beat()
        tokens = torch.from_numpy(rows).to(device)
        labels = tokens[:, 1:]
        weights = torch.from_numpy(real).to(device, torch.float32)[:, None].expand_as(labels)
        loss_sum += engine.module(tokens[:, :-1], labels, weights)
        tokens_seen += int(real.sum()) * labels.shape[1]
    engine.train()
    total_loss, total_tokens = reduce_sum([float(loss_sum), float(tokens_seen)], device)
    return total_loss / total_tokens
