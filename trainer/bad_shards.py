"""Batches of a dataset whose shards may be missing or corrupt: what cannot be read is left out, alike on all ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from data_shards.errors import DataError
from data_shards.loader import LoaderState, StepBatch, TrainLoader, Unreadable
from trainer.collectives import gather_to_all, reduce_sum

logger = logging.getLogger(__name__)

# Each try keeps what was good in the one before, so this many are needed only where next to nothing can be read.
MOST_TRIES = 100


def read_or_skip(
    loader: TrainLoader,
    state: LoaderState,
    global_batch_size: int,
    emit: Callable[[Mapping[str, Any]], None],
    device: torch.device,
) -> StepBatch:
    """The first step after `state` that every rank can read its part of; all ranks must call it.

    Positions that a rank cannot read are excluded from the run on all ranks, with an event `excluded` for each
    (`start` and `end` of the range, `shard`, `reason`), and those that follow are taken in their place.

    Raises:
        DataError: next to nothing of the dataset can be read; alike on all ranks.
    """
    for _ in range(MOST_TRIES):
        batch, own_failures = loader.try_read(state, global_batch_size)
        failures = _of_all_ranks(own_failures, device)
        if batch is not None and not failures:
            return batch
        for failure in failures:
            state = state.excluding(failure.position, failure.position + 1)
            emit(_event(failure))
    raise DataError(
        f"data.on_bad_shard: skip leaves out sequences that cannot be read, but after {MOST_TRIES} tries none made a "
        f"whole batch; the last failure: {failures[-1].reason} Mend the dataset, or prepare it again."
    )


def _of_all_ranks(own: tuple[Unreadable, ...], device: torch.device) -> list[Unreadable]:
    """The failures of all ranks, by position. The common case, none, costs one small all-reduce."""
    [count] = reduce_sum([float(len(own))], device)
    if count == 0:
        return []
    found = [failure for of_rank in gather_to_all(own) for failure in of_rank]
    return sorted(found, key=lambda failure: failure.position)


def _event(failure: Unreadable) -> dict[str, Any]:
    place = {"start": failure.position, "end": failure.position + 1, "shard": failure.shard}
    return {"event": "excluded", **place, "reason": failure.reason}
