"""When a rank keeps a snapshot in memory, and how all ranks go back to the same one."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_shards.loader import LoaderState
from trainer.checkpoint.memory import SnapshotMemory, snapshot_bytes
from trainer.engine_state import finish_restore, held_fragments, loss_scale_state
from trainer.place import Place
from trainer.process_group import broadcast_from_first, gather_to_first

logger = logging.getLogger(__name__)

LARGEST_SHARE_OF_MEMORY = 0.25
LARGEST_SHARE_OF_TIME = 0.02


def affordable_interval(copy_seconds: float, step_seconds: float) -> int:
    """Steps between snapshots so that copying costs at most 2% of the time. Pure."""
    return max(1, math.ceil(copy_seconds / (LARGEST_SHARE_OF_TIME * step_seconds)))


class Snapshots:
    """One rank's snapshots. All ranks call `take` at every step border, and `restore` together.

    The interval in force is rank 0's, told to all with each step, so that all ranks hold the same steps.
    """

    def __init__(
        self, fd: int | None, interval: int | str, identity: Mapping[str, Any], engine: Any, local_world_size: int
    ) -> None:
        fragments = held_fragments(engine)
        elements = sum(fragment.length for fragment in fragments)
        self._memory: SnapshotMemory | None = None
        if fd is not None and interval != 0 and _fits(fd, snapshot_bytes(elements), local_world_size):
            spans = [[fragment.name, fragment.start, fragment.length] for fragment in fragments]
            self._memory = SnapshotMemory(fd, {**identity, "spans": spans}, elements)
        self._asked = interval
        self._taken_step = 0
        self._copy_seconds = 0.0
        self._step_began = time.perf_counter()
        self.proposal = 0 if self._memory is None else 1
        """The interval that this rank would have; 0 where it keeps none. Rank 0's counts."""

    def take(self, engine: Any, place: Place, interval: int) -> None:
        """Keep a snapshot of this place if `interval` (rank 0's proposal) says so; 0 keeps none."""
        now = time.perf_counter()
        step_seconds, self._step_began = now - self._step_began - self._copy_seconds, now
        self._copy_seconds = 0.0
        if self._memory is None or interval == 0 or place.step - self._taken_step < interval:
            return
        fragments = held_fragments(engine)
        note = {
            "tokens": place.tokens,
            "loader": place.loader.to_dict(),
            "updates": [fragment.step for fragment in fragments],
            "loss_scale": loss_scale_state(engine),
        }
        self._memory.write(place.step, note, fragments)
        self._taken_step = place.step
        self._copy_seconds = time.perf_counter() - now
        if isinstance(self._asked, int):
            self.proposal = self._asked
        else:
            self.proposal = affordable_interval(self._copy_seconds, max(step_seconds, 1e-6))

    def newest_common(self) -> int | None:
        """The newest step of which every rank holds a whole snapshot."""
        held = gather_to_first(self._memory.steps() if self._memory else [])
        newest = None
        if held is not None:
            newest = max(set(held[0]).intersection(*held[1:]), default=None)
        common: int | None = broadcast_from_first(newest)
        return common

    def restore(self, engine: Any, step: int) -> Place:
        """Go back to a snapshot that every rank holds."""
        assert self._memory is not None
        note = self._memory.read_into(step, held_fragments(engine))
        self._memory.forget_after(step)
        finish_restore(engine, note["updates"], note["loss_scale"])
        self._taken_step = step
        logger.info("restored step %d from memory", step)
        return Place(step, note["tokens"], LoaderState.from_dict(note["loader"]))


def _fits(fd: int, size: int, local_world_size: int) -> bool:
    """Whether the machine's ranks may take so much each: it is taken already, or a share of what is free now."""
    if os.fstat(fd).st_size == size:
        return True
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = 1024 * int(fields["MemAvailable"].split()[0])
    return size * local_world_size <= LARGEST_SHARE_OF_MEMORY * free
