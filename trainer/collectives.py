"""Small values over all ranks, by torch alone: who judges a trained model needs no DeepSpeed."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def reduce_sum(values: list[float], device: torch.device) -> list[float]:
    """The sums of a few numbers over all ranks, in float64."""
    vector = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(vector)
    return [float(value) for value in vector.cpu()]


def gather_to_all(value: Any) -> list[Any]:
    """Every rank's value in rank order, on every rank."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def gather_to_first(value: Any) -> list[Any] | None:
    """Every rank's value in rank order on rank 0, None elsewhere. A barrier for rank 0."""
    gathered: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, gathered)
    return gathered


def broadcast_from_first(value: Any) -> Any:
    """Rank 0's value on every rank."""
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]
