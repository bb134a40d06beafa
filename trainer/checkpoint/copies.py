"""A copy of what a rank saves, so that training goes on while the copy is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import torch

from trainer.checkpoint.fragments import KINDS, Fragment, Snapshot

ALIGNMENT_BYTES = 64


class CopyMemory:
    """Memory for one copy of a snapshot, allocated and touched at the first and used again by every later one.

    It costs 12 bytes per element that the rank owns: fp32 master weight and two moments. Frozen parameters are not
    copied, since they stand still. For an accelerator's tensors the memory is page-locked.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def copy(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with tensors of its own; it is good until the next call."""
        sources = list(_tensors(snapshot))
        size = sum(_room(tensor) for tensor in sources)
        if size > self._memory.numel():
            pinned = any(tensor.is_cuda for tensor in sources)
            self._memory = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
        copies = iter(self._filled(sources))
        if any(tensor.is_cuda for tensor in sources):
            torch.cuda.synchronize()
        return dataclasses.replace(
            snapshot,
            fragments=[_fragment(fragment, copies) for fragment in snapshot.fragments],
            buffers=_named(snapshot.buffers, copies),
            rank_tensors=_named(snapshot.rank_tensors, copies),
        )

    def _filled(self, sources: list[torch.Tensor]) -> list[torch.Tensor]:
        """The copies, one behind the other in the memory."""
        copies, offset = [], 0
        for tensor in sources:
            size = tensor.numel() * tensor.element_size()
            place = self._memory[offset : offset + size].view(tensor.dtype).view(tensor.shape)
            copies.append(place.copy_(tensor, non_blocking=True))
            offset += _room(tensor)
        return copies


def _tensors(snapshot: Snapshot) -> Iterator[torch.Tensor]:
    for fragment in snapshot.fragments:
        for kind in KINDS:
            yield getattr(fragment, kind)
    yield from snapshot.buffers.values()
    yield from snapshot.rank_tensors.values()


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _fragment(fragment: Fragment, copies: Iterator[torch.Tensor]) -> Fragment:
    master, exp_avg, exp_avg_sq = (next(copies) for _ in KINDS)
    return dataclasses.replace(fragment, master=master, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)


def _named(tensors: Mapping[str, torch.Tensor], copies: Iterator[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: next(copies) for name in tensors}
