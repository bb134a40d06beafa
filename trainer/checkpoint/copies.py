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

    def begin(self, snapshot: Snapshot) -> Copy:
        """A copy that is still to be made, by any thread; it is good until the next call.

        Small tensors that a forward pass may change, buffers and those of the rank, are copied at once.
        """
        sources = list(_tensors(snapshot))
        size = sum(_room(tensor) for tensor in sources)
        if size > self._memory.numel():
            pinned = any(tensor.is_cuda for tensor in sources)
            self._memory = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
        places = self._places(sources)
        later = len(KINDS) * len(snapshot.fragments)
        for place, source in zip(places[later:], sources[later:], strict=True):
            place.copy_(source)
        copies = iter(places)
        copied = dataclasses.replace(
            snapshot,
            fragments=[_fragment(fragment, copies) for fragment in snapshot.fragments],
            buffers=_named(snapshot.buffers, copies),
            rank_tensors=_named(snapshot.rank_tensors, copies),
        )
        return Copy(copied, list(zip(places[:later], sources[:later], strict=True)))

    def _places(self, sources: list[torch.Tensor]) -> list[torch.Tensor]:
        """A place for each, one behind the other in the memory."""
        places, offset = [], 0
        for tensor in sources:
            size = tensor.numel() * tensor.element_size()
            places.append(self._memory[offset : offset + size].view(tensor.dtype).view(tensor.shape))
            offset += _room(tensor)
        return places


class Copy:
    """`snapshot` holds the copy once `make` has returned; until then the masters and moments must stand still."""

    def __init__(self, snapshot: Snapshot, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """pairs: (place, source)."""
        self.snapshot = snapshot
        self._pairs = pairs
        self._device = next((source.device for _, source in pairs if source.is_cuda), None)
        self._ready: torch.cuda.Event | None = None
        if self._device is not None:
            self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._ready.record(torch.cuda.current_stream(self._device))

    def make(self) -> None:
        """Copy; on an accelerator beside the work that its main stream has meanwhile."""
        if self._device is None or self._ready is None:
            self._copy()
            return
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            stream.wait_event(self._ready)
            self._copy()
        stream.synchronize()

    def _copy(self) -> None:
        for place, source in self._pairs:
            place.copy_(source, non_blocking=True)


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
