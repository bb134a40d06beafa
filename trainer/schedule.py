"""Learning-rate schedules and the length of a run, as functions of tokens. Pure functions."""

from __future__ import annotations

import math

from trainer.errors import TrainError
from trainer.settings import TrainSettings


def total_steps(
    train: TrainSettings, tokens_per_step: int, seq_len: int, sequences_per_epoch: int | None, done: tuple[int, int]
) -> int:
    """Optimizer steps of the whole run: never more tokens than `max_tokens`, at least one step.

    Args:
        sequences_per_epoch: sequences of one pass; None where weights of sources leave a pass undefined.
        done: steps and tokens behind the run. What is left is counted in steps of the present global batch, which
            may have been another one before.

    Raises:
        TrainError: a length shorter than one step, or epochs of a weighted mixture.
    """
    done_steps, done_tokens = done
    if train.max_steps is not None:
        return max(train.max_steps, done_steps)
    if train.max_tokens is not None:
        tokens = train.max_tokens
        asked = f"train.max_tokens: {train.max_tokens}"
    else:
        assert train.epochs is not None
        if sequences_per_epoch is None:
            raise TrainError("train.epochs: an epoch is not defined when sources have weights; give train.max_tokens.")
        tokens = int(train.epochs * sequences_per_epoch) * seq_len
        asked = f"train.epochs: {train.epochs} of {sequences_per_epoch} sequences"
    steps = done_steps + max(0, tokens - done_tokens) // tokens_per_step
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
    return train.min_lr + (peak - train.min_lr) * share
