"""How long a run takes, and how often it is to save. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from model.config import GPTConfig, checkpoint_period
from model.flops import model_flops_per_token

ASSUMED_UTILISATION = 0.35
"""Of the peak of matrix products; published runs of this kind have 0.2 to 0.5 (Chowdhery et al. 2022, table 3)."""

ASSUMED_DISK_BYTES_PER_SECOND = 1e9
DEVICE_HOURS_BETWEEN_FAILURES = 50_000.0
"""Of one GPU: 419 interruptions in 54 days on 16,384 of them (Llama team 2024, section 3.3.4) is 50,700."""


@dataclass(frozen=True)
class TimePlan:
    """FLOPs of the model over the whole run, seconds of a step, hours of the run on all ranks."""

    flops: float
    step_seconds: float
    hours: float
    tokens_per_second: float


def recomputed_share(mode: str) -> float:
    """What is computed a second time, as a share of the forward pass; of `selective` it is little and left out."""
    period = checkpoint_period(mode)
    return 0.0 if period == 0 or mode == "selective" else 1.0 / period


def time_plan(
    config: GPTConfig, steps: int, tokens_per_step: int, world_size: int, flops_per_second: float, utilisation: float
) -> TimePlan:
    """The time of so many steps on ranks that each have a peak of `flops_per_second`.

    utilisation: of that peak, by what is computed; a forward pass made again takes its time but counts no FLOPs.
    """
    per_step = model_flops_per_token(config, config.max_seq_len) * tokens_per_step
    computed = per_step * (1 + recomputed_share(config.activation_checkpointing) / 3)  # backward is twice forward
    seconds = computed / (flops_per_second * utilisation * world_size)
    return TimePlan(per_step * steps, seconds, seconds * steps / 3600, tokens_per_step / seconds)


def young_seconds(save_seconds: float, seconds_between_failures: float) -> float:
    """The interval between saves that loses the least time, to first order: sqrt(2 C M) (Young 1974)."""
    return math.sqrt(2 * save_seconds * seconds_between_failures)


def daly_seconds(save_seconds: float, seconds_between_failures: float) -> float:
    """The same to higher order (Daly 2006, equation 37); M where a save takes as long as two failures are apart."""
    if save_seconds >= 2 * seconds_between_failures:
        return seconds_between_failures
    ratio = save_seconds / (2 * seconds_between_failures)
    return young_seconds(save_seconds, seconds_between_failures) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_seconds
