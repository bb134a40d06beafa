"""The time that a rank takes by itself in a step, outside collectives, in which all wait for the slowest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class OwnTime:
    """Sums the marked parts of a step. On a GPU, where they run later, they are timed by events.

    counts_forward: False at ZeRO stage 3, whose forward pass gathers parameters: only what comes before it counts.
    """

    def __init__(self, device: torch.device, counts_forward: bool) -> None:
        self._has_events = device.type == "cuda"
        self._counts_forward = counts_forward
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []

    @contextmanager
    def part(self) -> Iterator[None]:
        """Counts what this process does in the block."""
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Counts a forward pass."""
        if not self._counts_forward:
            yield
        elif not self._has_events:
            with self.part():
                yield
        else:
            event: Any = torch.cuda.Event
            pair = event(enable_timing=True), event(enable_timing=True)
            pair[0].record()
            yield
            pair[1].record()
            self._events.append(pair)

    def take(self) -> float:
        """Seconds since the last call; once the device has done the step, so that nothing waits."""
        total: float = self._seconds + sum(begin.elapsed_time(end) for begin, end in self._events) / 1000
        self._seconds, self._events = 0.0, []
        return total
