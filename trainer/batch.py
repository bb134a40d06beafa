"""Batch arithmetic: how a global batch falls on ranks and micro-batches. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.errors import TrainError

LARGEST_AUTO_MICRO_BATCH = 8


@dataclass(frozen=True)
class BatchPlan:
    """One optimizer step of one rank: `accumulation` forward passes of `micro_batch` sequences.

    `accumulation * micro_batch` may exceed a rank's share of the global batch; what is over is padding of weight 0.
    """

    global_batch: int
    world_size: int
    micro_batch: int
    accumulation: int

    @property
    def rows_per_rank(self) -> int:
        """Sequences that each rank computes in a step, padding included."""
        return self.micro_batch * self.accumulation


def plan_batch(
    global_batch: int, micro_batch: int | str, world_size: int, most: int = LARGEST_AUTO_MICRO_BATCH
) -> BatchPlan:
    """The micro-batch and accumulation for a global batch on any number of ranks.

    `auto` takes the fewest passes of at most `most` sequences and levels them, so that little is padded.

    Raises:
        TrainError: a micro-batch larger than the global batch.
    """
    share = -(-global_batch // world_size)
    if isinstance(micro_batch, str):
        accumulation = -(-share // most)
        return BatchPlan(global_batch, world_size, -(-share // accumulation), accumulation)
    if micro_batch > global_batch:
        raise TrainError(
            f"train.micro_batch_size: must not exceed train.global_batch_size ({global_batch}), since a forward pass "
            f"takes its sequences from one global batch; found {micro_batch}. Lower it, or use auto."
        )
    micro_batch = min(micro_batch, share)
    return BatchPlan(global_batch, world_size, micro_batch, -(-share // micro_batch))
