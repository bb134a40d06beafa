"""Brings each new snapshot of a node's ranks to the node that holds its copy."""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass

from cluster.snapshot_keeper_holders import choose_holders
from cluster.snapshot_keeper_memory import KeptMemory, Picked
from cluster.snapshot_keeper_peers import Peers
from cluster.snapshot_keeper_store import Key, SnapshotStore
from cluster.snapshot_keeper_wire import describe, receive_frame, send_frame, send_snapshot

logger = logging.getLogger(__name__)

CHOICE_SECONDS = 0.2
GATHER_SECONDS = 10.0
"""So long a copy waits until all ranks are on some node; then it goes to whom those that are known leave it to."""


@dataclass
class _Way:
    """How a memory's snapshots go: to whom, over which connection, and what was told of it already."""

    memory: KeptMemory
    holder: str | None = None
    connection: socket.socket | None = None
    next_choice: float = 0.0  # monotonic seconds
    choice_began: float | None = None
    forgets: int = 0
    is_settled: bool = False
    is_only_size: bool = False

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class Copier:
    """One thread calls `look` again and again. Only the newest snapshot is sent: what a slow link missed is gone.

    Ranks write no further snapshot while the newest is on its way (`awaits_copy`), so that all ranks' copies are of the
    same steps.
    """

    def __init__(self, store: SnapshotStore, peers: Peers) -> None:
        self._store = store
        self._peers = peers
        self._ways: dict[Key, _Way] = {}

    def look(self) -> None:
        """Send what is new, and tell the others what was dropped."""
        owned = self._store.owned()
        for key in [key for key, way in self._ways.items() if owned.get(key) is not way.memory]:
            self._ways.pop(key).close()
        for key, memory in owned.items():
            self._look_at(key, self._ways.setdefault(key, _Way(memory)))

    def close(self) -> None:
        """Close all connections."""
        for way in self._ways.values():
            way.close()

    def _look_at(self, key: Key, way: _Way) -> None:
        numbers = way.memory.numbers()
        if numbers is None:
            return
        if numbers.forgets != way.forgets:
            # By versions, since the rank may have written one of the steps that it dropped anew meanwhile.
            kept = [(slot.step, slot.version) for slot in numbers.slots if slot.version]
            self._peers.ask_all({"ask": "forget", **key._asdict(), "kept": kept})
            self._store.keep_only(key, kept)
            way.forgets = numbers.forgets
        self._leave_other_sizes(key, way, numbers.writes)
        picked = way.memory.find()
        if picked is None or picked.slot.version == numbers.acked:
            return
        if not self._peers.nodes:
            way.memory.want_copies(0)
            self._settle(key, way)
        elif self._has_holder(key, way):
            if not numbers.copies:  # there was nobody when it was handed out
                way.memory.want_copies(1)
            if self._send(key, way, picked):
                way.memory.acknowledge(picked.slot.version)
                self._settle(key, way)

    def _leave_other_sizes(self, key: Key, way: _Way, writes: int) -> None:
        """After the second write nobody needs snapshots of gangs of other sizes.

        A rank begins it when every rank's first is whole, and on another node where it is to be.
        """
        if not way.is_only_size and writes > way.memory.writes_before + 1:
            self._peers.ask_all({"ask": "keep size", **key._asdict()})
            self._store.keep_size(key.world_size)
            way.is_only_size = True

    def _settle(self, key: Key, way: _Way) -> None:
        """After the first snapshot: what other keepers have of this rank can go."""
        if not way.is_settled:
            self._peers.ask_all({"ask": "drop", **key._asdict(), "holder": way.holder})
            self._store.drop(key, but_copy=False)
            way.is_settled = True

    def _has_holder(self, key: Key, way: _Way) -> bool:
        """Whether it is known who holds the copy; until each rank is on some node, that is hard to say."""
        if way.holder is not None:
            return True
        now = time.monotonic()
        way.choice_began = way.choice_began or now
        if now < way.next_choice:
            return False
        way.next_choice = now + CHOICE_SECONDS
        answers = self._peers.ask_all({"ask": "survey", "world_size": key.world_size, "claimed": None})
        owned = {node: answer["owned"] for node, answer in answers.items()}
        owned[self._peers.node] = [other.rank for other in self._store.owned() if other.world_size == key.world_size]
        node_of_rank = {rank: node for node, ranks in owned.items() for rank in ranks}
        if len(node_of_rank) == key.world_size or now - way.choice_began > GATHER_SECONDS:
            way.holder = choose_holders(node_of_rank, owned).get(key.rank)
        return way.holder is not None

    def _send(self, key: Key, way: _Way, picked: Picked) -> bool:
        assert way.holder is not None
        try:
            if way.connection is None:
                way.connection = self._peers.connect(way.holder)
            send_frame(way.connection, {"ask": "put", **key._asdict(), **describe(picked)})
            answer = receive_frame(way.connection)
            if answer is None:
                raise ConnectionError("it closed the connection")
            if not answer["go"]:
                raise ConnectionError("it has no memory left for copies")
            return send_snapshot(way.connection, picked)
        except OSError as error:
            way.close()
            self._peers.lost(way.holder, error)
            way.holder = None
            return False
