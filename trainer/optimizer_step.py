"""One optimizer step: the micro-batches of a rank forward and backward, then the update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from data_shards.loader import StepBatch
from trainer.batch import BatchPlan
from trainer.engine import set_learning_rate
from trainer.seeds import seed_step

Beat = Callable[[int, str], None]
"""Called with (step, phase): tells the supervisor where the rank is."""


@dataclass(frozen=True)
class StepResult:
    """What a rank knows after its step: the summed loss of its own rows, and the norm of the global gradient."""

    loss_sum: float
    grad_norm: float


def _unscaled_norm(engine: Any) -> float | None:
    """Norm of the averaged gradient where DeepSpeed does not keep it: stage 0 in fp32, before the step."""
    if hasattr(engine.optimizer, "_global_grad_norm") or engine.zero_optimization():
        return None
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def run_step(
    engine: Any, batch: StepBatch, plan: BatchPlan, *, rate: float, seed: int, step: int, rank: int, beat: Beat
) -> StepResult:
    """Train on this rank's rows of one global batch, tokens int64 [R, T+1], R = accumulation * micro-batch.

    The loss is the mean over the global batch's real tokens. DeepSpeed averages gradients over ranks, so each rank's
    sum is scaled by (ranks / real tokens); rows that only pad have weight 0. So the gradient is that of the global
    batch at any world size.
    """
    device = engine.device
    seed_step(seed, step, rank)
    set_learning_rate(engine, rate)
    tokens = torch.from_numpy(batch.tokens).to(device)  # [R, T+1]
    weights = torch.from_numpy(batch.real).to(device, torch.float32)  # [R]
    scale = plan.world_size / batch.tokens_real
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    norm = None
    for first in range(0, len(tokens), plan.micro_batch):
        rows = slice(first, first + plan.micro_batch)
        labels = tokens[rows, 1:]
        beat(step, "forward")
        loss = engine(tokens[rows, :-1], labels, weights[rows, None].expand_as(labels))
        beat(step, "backward")
        engine.backward(loss * scale, scale_wrt_gas=False)
        loss_sum += loss.detach()
        if first + plan.micro_batch >= len(tokens):
            norm = _unscaled_norm(engine)
        engine.step()
    if norm is None:
        norm = float(engine.get_global_grad_norm() or 0.0)
    return StepResult(float(loss_sum), norm)
