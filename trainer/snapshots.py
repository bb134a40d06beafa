"""When a rank keeps a snapshot in memory, and how all ranks go back to the same one."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed

from data_shards.loader import LoaderState
from trainer.checkpoint.former import open_former
from trainer.checkpoint.memory import NoteTooLongError, SnapshotMemory, copies_of, snapshot_bytes
from trainer.collectives import broadcast_from_first, gather_to_first
from trainer.engine_state import finish_restore, held_fragments, loss_scale_state
from trainer.free_memory import LARGEST_SHARE_OF_MEMORY, free_memory_bytes
from trainer.place import Place

logger = logging.getLogger(__name__)

LARGEST_SHARE_OF_TIME = 0.02
PATIENCE_SECONDS = 10.0
"""How long a snapshot waits for the one before to be copied to another node; its keeper may be gone."""


def affordable_interval(copy_seconds: float, step_seconds: float) -> int:
    """Steps between snapshots so that copying costs at most 2% of the time. Pure."""
    return max(1, math.ceil(copy_seconds / (LARGEST_SHARE_OF_TIME * step_seconds)))


def believe_all(attempt: int, step: int) -> bool:
    """What every attempt wrote counts."""
    return True


class Patience:
    """How long to wait for something that may have lost whoever does it. Once it has run out, until it was done once.

    Pure: times are given.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._is_left = True

    def waits(self, is_awaited: bool, waited_seconds: float) -> bool:
        """Whether to wait on. is_awaited: whether it is still to be done; waited_seconds: for how long already."""
        if not is_awaited:
            self._is_left = True
            return False
        self._is_left = self._is_left and waited_seconds < self._limit_seconds
        return self._is_left


class Snapshots:
    """One rank's snapshots. All ranks call `take` at every step border, and `restore` together.

    The interval in force is rank 0's, told to all with each step, so that all ranks hold the same steps.
    """

    def __init__(
        self,
        fd: int | None,
        former_fds: Sequence[int],
        interval: int | str,
        run_identity: Mapping[str, Any],
        engine: Any,
        local_world_size: int,
        attempt: int,
    ) -> None:
        """fd: this rank's memory; former_fds: of a gang of another size, each rank's; run_identity: whose they are."""
        fragments = held_fragments(engine)
        elements = sum(fragment.length for fragment in fragments)
        self._memory: SnapshotMemory | None = None
        run_key = hashlib.sha256(json.dumps(run_identity, sort_keys=True).encode()).hexdigest()
        self._whose = {
            "run_key": run_key,
            "world_size": torch.distributed.get_world_size(),
            "spans": [[fragment.name, fragment.start, fragment.length] for fragment in fragments],
        }
        if fd is not None and interval != 0 and _fits(fd, snapshot_bytes(elements), local_world_size):
            identity = {**self._whose, "rank": torch.distributed.get_rank(), "stage": engine.zero_optimization_stage()}
            self._memory = SnapshotMemory(fd, identity, elements)
        self._former = open_former(former_fds, run_key)
        self._attempt = attempt
        self._asked = interval
        self._taken_step = 0
        self._copy_seconds = 0.0
        self._step_began = time.perf_counter()
        self._taken_time = time.monotonic()
        self._patience = Patience(PATIENCE_SECONDS)
        self.proposal = 0 if self._memory is None else 1
        """The interval that this rank would have; 0 where it keeps none. Rank 0's counts."""

    @property
    def behind(self) -> bool:
        """Whether the newest snapshot is still on its way to another node.

        Then no rank takes the next one: each slot but the newest is one that every holder has, so that after the loss
        of a node there is a step that all go back to. Not for ever: whoever copies may be gone.
        """
        awaited = self._memory is not None and self._memory.awaits_copy
        return self._patience.waits(awaited, time.monotonic() - self._taken_time)

    def take(self, engine: Any, place: Place, interval: int) -> None:
        """Keep a snapshot of this place if `interval` (rank 0's proposal) says so; 0 keeps none."""
        now = time.perf_counter()
        step_seconds, self._step_began = now - self._step_began - self._copy_seconds, now
        self._copy_seconds = 0.0
        if self._memory is None or interval == 0 or place.step - self._taken_step < interval:
            return
        fragments = held_fragments(engine)
        note = {
            **self._whose,
            "attempt": self._attempt,
            "tokens": place.tokens,
            "loader": place.loader.to_dict(),
            "updates": [fragment.step for fragment in fragments],
            "loss_scale": loss_scale_state(engine),
        }
        try:
            self._memory.write(place.step, note, fragments)
        except NoteTooLongError as error:
            logger.warning("no more snapshots in memory: %s", error)
            self._memory.forget_after(-1)
            self._memory, self.proposal = None, 0
            return
        self._taken_step, self._taken_time = place.step, time.monotonic()
        self._copy_seconds = time.perf_counter() - now
        if isinstance(self._asked, int):
            self.proposal = self._asked
        else:
            self.proposal = affordable_interval(self._copy_seconds, max(step_seconds, 1e-6))

    def start_over(self, engine: Any, place: Place) -> None:
        """Keep the place that the run went back to, and nothing that is newer; all ranks call it together."""
        if self._memory is not None:
            self._memory.forget_after(place.step - 1)  # that step's own, if there is one, knows of no going back
        torch.distributed.barrier()  # before any rank has the new one: no two ranks may hold different ones of a step
        if self._memory is not None:
            self._taken_step = place.step - 1
            self.take(engine, place, 1)

    def forget_after(self, step: int) -> None:
        """The run went back to this step by other means: what is newer, here and in copies, is not its history."""
        if self._memory is not None:
            self._memory.forget_after(step)

    def newest_common(self, is_believed: Callable[[int, int], bool] = believe_all) -> int | None:
        """The newest step of which every rank holds a whole snapshot that counts.

        is_believed: whether what an attempt (its number) wrote of a step counts. A node that was cut off for a while
        may come back with snapshots of steps beyond one that a later attempt went back to.
        """
        memory, former = self._memory, self._former
        attempts = {} if former is None else {former.step: former.note["attempt"]}
        if memory is not None:
            attempts |= {step: memory.note(step)["attempt"] for step in memory.steps()}
        believed = [step for step, attempt in attempts.items() if is_believed(attempt, step)]
        logger.info("snapshots in memory by attempt: %s; of these count %s", attempts, believed)
        held = gather_to_first(believed)
        newest = None
        if held is not None:
            newest = max(set(held[0]).intersection(*held[1:]), default=None)
        common: int | None = broadcast_from_first(newest)
        return common

    def restore(self, engine: Any, step: int) -> Place:
        """Go back to a snapshot that every rank holds, of its own or all of a former gang's."""
        fragments = held_fragments(engine)
        if self._memory is not None and step in self._memory.steps():
            note: Mapping[str, Any] = self._memory.read_into(step, fragments)
            updates = note["updates"]
        else:
            assert self._former is not None and self._former.step == step
            note, updates = self._former.note, self._former.read_into(fragments)
        self.forget_after(step)
        self._former = None
        finish_restore(engine, updates, note["loss_scale"])
        self._taken_step = step
        logger.info("restored step %d from memory of %d ranks", step, note["world_size"])
        return Place(step, note["tokens"], LoaderState.from_dict(note["loader"]))


def _fits(fd: int, size: int, local_world_size: int) -> bool:
    """Whether the machine's ranks may take so much each: it is taken already, or a share of what is free now."""
    if os.fstat(fd).st_size == size:
        return True
    # Where other nodes hold copies of ours, we hold as many of theirs.
    needed = size * local_world_size * (1 + copies_of(fd))
    return needed <= LARGEST_SHARE_OF_MEMORY * free_memory_bytes()
