"""One optimizer step: the micro-batches of a rank forward and backward, then the update, if its numbers are good."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data_shards.loader import StepBatch
from trainer.adversarial import no_shift, perturbation
from trainer.batch import BatchPlan
from trainer.collectives import reduce_sum
from trainer.engine import set_learning_rate
from trainer.engine_state import loss_scale_state, set_loss_scale_state
from trainer.loss_weights import loss_weights
from trainer.model_input import ModelInput, counted_labels, model_input
from trainer.own_time import OwnTime
from trainer.seeds import seed_step
from trainer.settings import Normalize

Beat = Callable[[int, str], None]
"""Called with (step, phase): tells the supervisor where the rank is."""


def no_wait() -> None:
    """Nothing holds the update up."""


@dataclass(frozen=True)
class StepWatch:
    """How a step is watched. Beside the loss, what each rank tells is summed, in the same all-reduce.

    loss_limit: a loss above it is not trained on; spoil: what a fault makes of a micro-batch's loss; before_update:
    called when the gradient is there, and weights and moments still stand still.
    """

    beat: Beat
    own_time: OwnTime
    tell: Callable[[], Sequence[float]] = tuple
    loss_limit: float = math.inf
    spoil: Callable[[Tensor], Tensor] | None = None
    before_update: Callable[[], None] = no_wait


@dataclass(frozen=True)
class StepResult:
    """What every rank knows after a step, alike on all of them.

    loss: mean over the global batch's labels that count, or over its fragments; labels: how many count, at least 1;
    grad_norm: of the global gradient, not finite where a gradient was not; is_applied: whether the weights were
    updated; told: the sums of what the ranks told.
    """

    loss: float
    labels: int
    grad_norm: float
    is_applied: bool
    told: tuple[float, ...]


def _unscaled_norm(engine: Any) -> float | None:
    """Norm of the averaged gradient where DeepSpeed does not keep it: stage 0 in fp32, before the step."""
    if hasattr(engine.optimizer, "_global_grad_norm") or engine.zero_optimization():
        return None
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def _labels_of_all_ranks(batch: StepBatch, own: int, device: torch.device) -> int:
    """Labels that the step's loss counts; 1 where there are none, as in sequences of empty documents."""
    if batch.document_starts is None and batch.loss_mask is None and batch.decoder_starts is None:
        return batch.tokens_real
    [labels] = reduce_sum([float(own)], device)  # a rank knows its own rows alone
    return max(int(labels), 1)


def _forward(engine: Any, inputs: ModelInput, shift_btc: Tensor | None, step: int, watch: StepWatch) -> Tensor:
    """The scalar loss of a micro-batch."""
    with watch.own_time.part():
        watch.beat(step, "forward")
    with watch.own_time.forward():
        loss = inputs.loss(engine, shift_btc)
    return loss if watch.spoil is None else watch.spoil(loss)


def _summed(loss_sum: Tensor, told: Sequence[float]) -> Tensor:
    """The sums over all ranks, float64 [1 + told], on the device: nothing here waits for it."""
    sums = torch.cat([loss_sum.view(1), torch.tensor(told, dtype=torch.float64, device=loss_sum.device)])
    dist.all_reduce(sums)
    return sums


def _guard(loss: Tensor, limit: float) -> Tensor:
    """The factor of the last micro-batch's loss: 1, or NaN where the step must not be trained on.

    With a NaN in it the gradient's norm is none either, and by that no optimizer takes the step; so one way to leave
    the weights alone serves all stages, and the decision is made on the device.
    """
    good = torch.isfinite(loss) & (loss <= limit)
    return torch.where(good, 1.0, math.nan)


def _update(engine: Any, norm: float | None) -> bool:
    """DeepSpeed's step; whether it changed the weights. All its optimizers leave out one whose norm is not finite."""
    if norm is not None and not math.isfinite(norm):
        # Plain AdamW does not look at the norm, but at this, by which torch's GradScaler has it leave a step out.
        engine.optimizer.found_inf = torch.ones((), device=engine.device)
        engine.step()
        del engine.optimizer.found_inf
        return False
    engine.step()
    return bool(engine.was_step_applied())


def _backward(engine: Any, loss: Tensor, step: int, beat: Beat) -> None:
    """Add a loss's gradients to the step's."""
    beat(step, "backward")
    engine.backward(loss, scale_wrt_gas=False)


def _adversarial_loss(engine: Any, inputs: ModelInput, shift_btc: Tensor, epsilon: float) -> Tensor:
    """The micro-batch's loss with its embeddings moved along the gradient that the pass before left in the shift."""
    engine.step()  # DeepSpeed counts each backward pass as a micro-batch
    assert shift_btc.grad is not None
    return inputs.loss(engine, perturbation(shift_btc.grad, epsilon))


def run_step(
    engine: Any,
    batch: StepBatch,
    plan: BatchPlan,
    *,
    rate: float,
    seed: int,
    step: int,
    rank: int,
    watch: StepWatch,
    normalize: Normalize = "tokens",
    epsilon: float | None = None,
) -> StepResult:
    """Train on this rank's rows of one global batch, tokens int64 [R, T+1], R = accumulation * micro-batch.

    The loss is the mean over the global batch's labels that count, or over its fragments (`trainer.loss_weights`).
    DeepSpeed averages gradients over ranks, so each rank's sum is scaled by (ranks / terms of that mean); labels of
    rows that only pad, and of other documents, have weight 0. So the gradient is that of the global batch at any world
    size.

    epsilon: of adversarial training (see `trainer.adversarial`). To the gradient is then added that of the perturbed
    loss; the result's loss is the plain one.

    Weights change only if the loss is finite and within the watch's limit, and the gradient's norm finite.
    """
    device, beat = engine.device, watch.beat
    seed_step(seed, step, rank)
    set_learning_rate(engine, rate)
    counted = counted_labels(batch)
    labels = _labels_of_all_ranks(batch, int(counted.sum()), device)
    weights, own_terms = loss_weights(counted, batch.document_starts, normalize)
    terms = labels if normalize == "tokens" else max(int(reduce_sum([float(own_terms)], device)[0]), 1)
    scale, loss_scale = plan.world_size / terms, loss_scale_state(engine)
    sums = torch.zeros(1, dtype=torch.float64, device=device)
    norm, is_applied = None, False
    for first in range(0, len(batch.tokens), plan.micro_batch):
        is_last = first + plan.micro_batch >= len(batch.tokens)
        inputs = model_input(batch, weights, slice(first, first + plan.micro_batch), device)
        shift = None if epsilon is None else no_shift(inputs.tokens_bt, engine.module.config.n_embd)
        loss = _forward(engine, inputs, shift, step, watch)
        sums += loss.detach()
        if is_last:
            sums = _summed(sums, watch.tell())
        if shift is not None and epsilon is not None:
            _backward(engine, loss * scale, step, beat)
            loss = _adversarial_loss(engine, inputs, shift, epsilon)
        loss = loss * scale
        if is_last:
            loss = loss * _guard(sums[0] / terms, watch.loss_limit).to(loss.dtype)
        _backward(engine, loss, step, beat)
        if is_last:
            beat(step, "collective")
            norm = _unscaled_norm(engine)
            watch.before_update()
            is_applied = _update(engine, norm)
        else:
            engine.step()
    return _result(engine, sums, terms, labels, norm, is_applied, loss_scale, watch.loss_limit)


def _result(
    engine: Any,
    sums: Tensor,
    terms: int,
    labels: int,
    norm: float | None,
    is_applied: bool,
    loss_scale: Mapping[str, Any] | None,
    loss_limit: float,
) -> StepResult:
    """The step's result; a step that was left out for its loss leaves the loss scale as it was before."""
    if norm is None:
        norm = float(engine.get_global_grad_norm() or 0.0)
    loss_sum, *told = sums.tolist()
    result = StepResult(loss_sum / terms, labels, norm, is_applied, tuple(told))
    if not (math.isfinite(result.loss) and result.loss <= loss_limit):
        set_loss_scale_state(engine, loss_scale)  # it is not to blame
    return result
