"""Learning-rate schedules and the length of a run, as functions of tokens. Pure functions."""

from __future__ import annotations

import math

from trainer.errors import TrainError
from trainer.settings import TrainSettings


def total_steps(train: TrainSettings, tokens_per_step: int, sequences_per_epoch: int | None) -> int:
    """Optimizer steps of the whole run: never more tokens than `max_tokens`, at least one step.

    Args:
        sequences_per_epoch: sequences of one pass; None where weights of sources leave a pass undefined.

    Raises:
        TrainError: a length shorter than one step, or epochs of a weighted mixture.
    """
    if train.max_steps is not None:
        return train.max_steps
    if train.max_tokens is not None:
        steps = train.max_tokens // tokens_per_step
        asked = f"train.max_tokens: {train.max_tokens}"
    else:
        assert train.epochs is not None
        if sequences_per_epoch is None:
            raise TrainError("train.epochs: an epoch is not defined when sources have weights; give train.max_tokens.")
        steps = int(train.epochs * sequences_per_epoch) // train.global_batch_size
        asked = f"train.epochs: {train.epochs} of {sequences_per_epoch} sequences"
    if steps < 1:
        raise TrainError(
            f"{asked} must give at least one optimizer step of {tokens_per_step} tokens "
            f"(train.global_batch_size {train.global_batch_size} sequences). Train longer or lower the batch."
        )
    return steps


def learning_rate(train: TrainSettings, tokens: int, total_tokens: int) -> float:
    """The rate of the step that brings the run to `tokens` of `total_tokens` trained tokens.

    Linear warm-up to `train.lr` over `warmup_ratio` of the tokens, then: cosine (Loshchilov & Hutter 2017, eq. 5)
    or a straight line to `min_lr`; wsd, constant and then a straight line over the last `decay_ratio` (Hu et al.
    2024, MiniCPM, section 4); or constant.
    """
    schedule, peak = train.schedule, train.lr
    warmup = schedule.warmup_ratio * total_tokens
    if tokens < warmup:
        return peak * tokens / warmup
    if schedule.name == "constant":
        return peak
    start = (1 - schedule.decay_ratio) * total_tokens if schedule.name == "wsd" else warmup
    done = (tokens - start) / max(total_tokens - start, 1)
    done = min(max(done, 0.0), 1.0)
    share = 0.5 * (1 + math.cos(math.pi * done)) if schedule.name == "cosine" else 1 - done
    return schedule.min_lr + (peak - schedule.min_lr) * share
