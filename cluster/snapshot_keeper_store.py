"""What one keeper holds: the memories of its node's ranks, and copies of other nodes' ranks' snapshots."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from cluster.snapshot_keeper_memory import KeptMemory, Picked


class Key(NamedTuple):
    """Whose snapshots: a rank of a gang of so many."""

    rank: int
    world_size: int


class SnapshotStore:
    """Memories by key. Safe to use from several threads.

    A key has at most one memory that a rank here writes to (owned), and others that are only read: a copy sent by the
    rank's node, or what a rank wrote here before it was placed elsewhere (left).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owned: dict[Key, KeptMemory] = {}
        self._copies: dict[Key, KeptMemory] = {}
        self._left: dict[Key, KeptMemory] = {}
        self._gathering = threading.Lock()
        self._gathered: tuple[tuple[int, int], list[KeptMemory]] | None = None

    def owned(self) -> dict[Key, KeptMemory]:
        """The memories that ranks here write to."""
        with self._lock:
            return dict(self._owned)

    def own(self, key: Key, memory: KeptMemory) -> None:
        """A rank here writes to this memory from now on; what an earlier one wrote is left to be read."""
        with self._lock:
            self._leave(key)
            self._owned[key] = memory

    def leave(self, key: Key) -> None:
        """The rank is placed on another node now."""
        with self._lock:
            self._leave(key)

    def _leave(self, key: Key) -> None:
        if key in self._owned:
            self._left[key] = self._owned.pop(key)

    def copy(self, key: Key) -> KeptMemory:
        """The memory for copies that another node sends."""
        with self._lock:
            if key not in self._copies:
                self._copies[key] = KeptMemory()
            return self._copies[key]

    def held(self) -> dict[int, dict[int, list[int]]]:
        """By the gang's size and the rank, the steps of which there is a whole snapshot, rising."""
        steps: dict[int, dict[int, set[int]]] = {}
        for key, memory in self._all():
            steps.setdefault(key.world_size, {}).setdefault(key.rank, set()).update(memory.steps())
        return {size: {rank: sorted(found) for rank, found in ranks.items()} for size, ranks in steps.items()}

    def find(self, key: Key, step: int) -> Picked | None:
        """A whole snapshot of that rank and step."""
        found = (memory.find(step) for other, memory in self._all() if other == key)
        return next((picked for picked in found if picked is not None), None)

    def keep_only(self, key: Key, kept: Collection[tuple[int, int]]) -> None:
        """Drop all but these (step, version) from what is only read here; the owner drops its own."""
        with self._lock:
            memories = [parts[key] for parts in (self._copies, self._left) if key in parts]
        for memory in memories:
            memory.keep_only(kept)

    def leave_other_sizes(self, world_size: int) -> None:
        """There is a gang of that size now: what ranks of others wrote here is only read."""
        with self._lock:
            for other in [other for other in self._owned if other.world_size != world_size]:
                self._leave(other)

    def keep_size(self, world_size: int) -> None:
        """Let go of the snapshots of gangs of other sizes: that of this size has newer ones."""
        with self._lock:
            for parts in (self._owned, self._copies, self._left):
                for other in [other for other in parts if other.world_size != world_size]:
                    del parts[other]
            self._gathered = None

    def gathered(self, size: int, step: int, gather: Callable[[], list[KeptMemory]]) -> list[KeptMemory]:
        """The snapshots of one step of all ranks of a former gang, which the ranks here have in common.

        gather: brings them here, the first time.
        """
        with self._gathering:
            if self._gathered is None or self._gathered[0] != (size, step):
                self._gathered = ((size, step), gather())
            return self._gathered[1]

    def drop(self, key: Key, but_copy: bool) -> None:
        """Let go of what is held of a rank beside its own node and one other: what it left here, and a copy, unless
        it is the one in use."""
        with self._lock:
            self._left.pop(key, None)
            if not but_copy:
                self._copies.pop(key, None)

    def _all(self) -> Iterator[tuple[Key, KeptMemory]]:
        with self._lock:
            parts = [*self._owned.items(), *self._copies.items(), *self._left.items()]
        yield from parts
