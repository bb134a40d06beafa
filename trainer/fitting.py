"""How many sequences a pass may have for what memory there is. Pure functions."""

from __future__ import annotations

import dataclasses

from trainer.batch import LARGEST_AUTO_MICRO_BATCH, BatchPlan, plan_batch
from trainer.plan_memory import MemoryModel, Setting
from trainer.plan_search import largest_that_fits

MOST_TOKENS_ON_GPU = 65_536
"""A pass of more is no faster."""


def most_rows(device: str, seq_len: int) -> int:
    """Sequences of a pass beyond which there is nothing to gain."""
    return LARGEST_AUTO_MICRO_BATCH if device == "cpu" else max(1, MOST_TOKENS_ON_GPU // seq_len)


def fitting_batch(model: MemoryModel, available_bytes: int) -> BatchPlan:
    """The batch of the largest passes that the memory takes, or of smaller ones, down to half, that pad less.

    Passes are of one sequence where even that is too much.
    """
    train = model.train
    setting = Setting(train.zero.stage, 1, train.activation_checkpointing, train.zero.offload)

    def batch(rows: int) -> BatchPlan:
        return plan_batch(train.global_batch_size, "auto", model.world_size, rows)

    def fits(rows: int) -> bool:
        other = dataclasses.replace(setting, micro_batch=batch(rows).micro_batch)
        return model.plan(other).needed(model.device) <= available_bytes

    most = min(most_rows(model.device, model.shape.max_seq_len), model.share())
    largest = max(1, largest_that_fits(fits, most))
    return min(map(batch, range(largest, largest // 2, -1)), key=lambda one: (one.rows_per_rank, one.accumulation))


def planned_batch(model: MemoryModel, available_bytes: int) -> BatchPlan:
    """The batch that the run file asks for: its own micro-batch, or the one that fits.

    Raises:
        TrainError: a micro-batch larger than the global batch.
    """
    train = model.train
    if train.micro_batch_size == "auto":
        return fitting_batch(model, available_bytes)
    return plan_batch(train.global_batch_size, train.micro_batch_size, model.world_size)
