"""Bytes of a rank's live tensors, at rest and at the height of a step, counted alike in all arms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.live_tensors import LiveTensors

STEPS = 4  # the first makes what later ones find


class CountedTensors(LiveTensors):
    """Also of tensors that wrap a local one (FSDP2's), and of storages that are emptied and filled in place."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for key, (ref, size) in list(self._seen.items()):
            storage = ref()
            if storage is not None and (now := storage.nbytes()) != size:
                self._seen[key] = (ref, now)
                self._add(now - size)
        return result

    def _see(self, tensor: torch.Tensor) -> None:
        local = getattr(tensor, "_local_tensor", None)
        super()._see(tensor if local is None else local)


def count_steps(live: LiveTensors, step: Callable[[int], None]) -> dict[str, int]:
    """Bytes between steps, and the peak of a step: the lowest of those after the first, since a thread of gloo's may
    hold a buffer for a moment longer than the collective takes. `live` must be entered; steps count from 1."""
    peaks = []
    for number in range(1, STEPS + 1):
        live.restart()
        step(number)
        peaks.append(live.peak_bytes)
    return {"rest": live.now_bytes, "peak": min(peaks[1:])}
