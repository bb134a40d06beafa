"""One optimizer step: the micro-batches of a rank forward and backward, then the update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from data_shards.loader import StepBatch
from trainer.batch import BatchPlan
from trainer.engine import set_learning_rate
from trainer.model_input import counted_labels, model_input
from trainer.process_group import reduce_sum
from trainer.seeds import seed_step

Beat = Callable[[int, str], None]
"""Called with (step, phase): tells the supervisor where the rank is."""


@dataclass(frozen=True)
class StepResult:
    """What a rank knows after its step."""

    loss_sum: float  # of its own rows
    labels: int  # of all ranks, which the loss is the mean over; at least 1
    grad_norm: float  # of the global gradient


def _unscaled_norm(engine: Any) -> float | None:
    """Norm of the averaged gradient where DeepSpeed does not keep it: stage 0 in fp32, before the step."""
    if hasattr(engine.optimizer, "_global_grad_norm") or engine.zero_optimization():
        return None
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def _labels_of_all_ranks(batch: StepBatch, own: int, device: torch.device) -> int:
    """Labels that the step's loss counts; 1 where there are none, as in sequences of empty documents."""
    if batch.document_starts is None:
        return batch.tokens_real
    [labels] = reduce_sum([float(own)], device)  # a rank knows the borders in its own rows alone
    return max(int(labels), 1)


def run_step(
    engine: Any, batch: StepBatch, plan: BatchPlan, *, rate: float, seed: int, step: int, rank: int, beat: Beat
) -> StepResult:
    """Train on this rank's rows of one global batch, tokens int64 [R, T+1], R = accumulation * micro-batch.

    The loss is the mean over the global batch's labels that count. DeepSpeed averages gradients over ranks, so each
    rank's sum is scaled by (ranks / labels); labels of rows that only pad, and of other documents, have weight 0. So
    the gradient is that of the global batch at any world size.
    """
    device = engine.device
    seed_step(seed, step, rank)
    set_learning_rate(engine, rate)
    counted = counted_labels(batch)
    labels = _labels_of_all_ranks(batch, int(counted.sum()), device)
    scale = plan.world_size / labels
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    norm = None
    for first in range(0, len(batch.tokens), plan.micro_batch):
        inputs = model_input(batch, counted, slice(first, first + plan.micro_batch), device)
        beat(step, "forward")
        loss = inputs.loss(engine)
        beat(step, "backward")
        engine.backward(loss * scale, scale_wrt_gas=False)
        loss_sum += loss.detach()
        if first + plan.micro_batch >= len(batch.tokens):
            norm = _unscaled_norm(engine)
        engine.step()
    if norm is None:
        norm = float(engine.get_global_grad_norm() or 0.0)
    return StepResult(float(loss_sum), labels, norm)
