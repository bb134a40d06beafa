"""Keepers of snapshots on Ray: an actor on each node, owned by the driver, with which they all go."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import ray
import ray.exceptions
import ray.util
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import processes
from cluster.driver_cord import Cord, hold_on
from cluster.rank_memory import RankMemory
from cluster.snapshot_keeper import Keeper
from cluster.snapshot_keeper_client import take_snapshot_memory
from cluster.snapshot_keeper_peers import Address

logger = logging.getLogger(__name__)

MOST_DEATHS = 3
"""A node on which so many keepers have died gets no other."""

TITLE_SECONDS = 1.0
FOREVER_SECONDS = 1e6
MOST_KEEPERS = 4096  # of a command, those that are gone among them
WAIT_SECONDS = 20.0
"""How long a worker waits for its node's keeper, which is starting where the node has just come."""


class KeeperActor:
    """A keeper in a process of its own."""

    def __init__(self, name: str, node_id: str, token: str, is_local: bool, driver: Address) -> None:
        threading.Thread(target=_end_with, args=(os.getppid(),), name="raylet", daemon=True).start()
        processes.be_spared_memory_kills()
        host = "127.0.0.1" if is_local else ray.util.get_node_ip_address()
        self._keeper = Keeper(node_id, token, host, _each_look(f"headrace: keeper of {name}"))
        hold_on(driver)

    def address(self) -> Address:
        """Where other keepers reach it."""
        return self._keeper.address

    def meet(self, addresses: Mapping[str, Address]) -> None:
        """Learn the keepers of the run: the address of each, by node."""
        self._keeper.meet(addresses)

    def stay(self) -> None:
        """Never returns: who has called it hears of the keeper's death at once, without asking again and again."""
        threading.Event().wait()


def _end_with(raylet_pid: int) -> None:
    """End this process when its node's raylet does, without which nobody would know of it."""
    try:
        processes.is_over(os.pidfd_open(raylet_pid), wait_seconds=FOREVER_SECONDS)
    finally:
        os._exit(1)


def _each_look(title: str) -> Callable[[], None]:
    """Keeps the process's title, which Ray sets with each call."""
    next_title = 0.0

    def look() -> None:
        nonlocal next_title
        if time.monotonic() >= next_title:
            next_title = time.monotonic() + TITLE_SECONDS
            ray._raylet.setproctitle(title)

    return look


class SnapshotKeepers:
    """The keepers of a run, as its driver has them: they end with it, also if it is killed."""

    def __init__(self, name: str, token: str, is_local: bool) -> None:
        """name: the run's; token: its secret; is_local: all nodes are this machine, none need listen beyond it."""
        host = "127.0.0.1" if is_local else ray.util.get_node_ip_address()
        self._cord = Cord(host, MOST_KEEPERS)
        self._arguments = {"name": name, "token": token, "is_local": is_local, "driver": self._cord.address}
        # Each by the node's id: the keepers, what was asked of them, the calls that end with them, where they are, how
        # many have died.
        self._actors: dict[str, Any] = {}
        self._asked: dict[str, ray.ObjectRef[Address]] = {}
        self._staying: dict[str, ray.ObjectRef[None]] = {}
        self._known: dict[str, Address] = {}
        self._deaths: Counter[str] = Counter()
        self._without: frozenset[str] = frozenset()
        self._met: dict[str, Address] = {}

    @property
    def nodes(self) -> list[str]:
        """Ids of the nodes whose keepers have started, as far as is known."""
        return list(self._known)

    def cover_nodes(self, without: Collection[str] = ()) -> None:
        """Have a keeper start on every node that has none; call it again and again, it does not wait.

        The keepers of nodes that are gone are left out, and one that has died is replaced. without: ids of nodes that
        Ray takes for alive and that do not answer: no keeper is started there, and the others do not meet theirs.
        """
        self._without = frozenset(without)
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for node_id in [node_id for node_id in self._actors if node_id not in alive]:
            self._leave_out(node_id)
        for node_id in sorted(alive - self._without - self._asked.keys() - self._staying.keys()):
            if node_id not in self._actors and self._deaths[node_id] < MOST_DEATHS:
                self._actors[node_id] = self._start(node_id)
            if node_id in self._actors:
                self._asked[node_id] = self._actors[node_id].address.remote()
        self.look()

    def look(self) -> None:
        """Take the answers that have come, and have the keepers meet anew where that changes who there is."""
        for node_id in _answered(self._asked):
            self._take_answer(node_id)
        for node_id in _answered(self._staying):
            self._take_end(node_id)
        known = {node_id: address for node_id, address in self._known.items() if node_id not in self._without}
        if known != self._met:
            self._met = known
            for node_id in known:
                self._actors[node_id].meet.remote(known)

    def let_go(self) -> None:
        """Have the keepers end themselves, without Ray, whose head may be gone."""
        self._cord.close()

    def close(self) -> None:
        """End the keepers, and let go of all snapshots."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors, self._asked, self._staying, self._known = {}, {}, {}, {}
        self.let_go()

    def _start(self, node_id: str) -> Any:
        actor = ray.remote(num_cpus=0, max_restarts=0, max_concurrency=2)(KeeperActor).options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
        )
        return actor.remote(node_id=node_id, **self._arguments)

    def _take_answer(self, node_id: str) -> None:
        call = self._asked.pop(node_id)
        try:
            self._known[node_id] = ray.get(call, timeout=0)
            self._staying[node_id] = self._actors[node_id].stay.remote()
        except ray.exceptions.RayError as error:
            self._take_error(node_id, error)

    def _take_end(self, node_id: str) -> None:
        call = self._staying.pop(node_id)
        try:
            ray.get(call, timeout=0)
        except ray.exceptions.RayError as error:
            self._take_error(node_id, error)

    def _take_error(self, node_id: str, error: ray.exceptions.RayError) -> None:
        if not isinstance(error, ray.exceptions.ActorDiedError):
            logger.warning("the keeper of snapshots on node %s does not answer: %s", node_id, error)
            return
        logger.warning("the keeper of snapshots on node %s has died: %s", node_id, error)
        self._deaths[node_id] += 1
        self._leave_out(node_id)
        if self._deaths[node_id] == MOST_DEATHS:
            logger.warning("node %s goes without a keeper of snapshots: %d have died there", node_id, MOST_DEATHS)

    def _leave_out(self, node_id: str) -> None:
        ray.kill(self._actors.pop(node_id))
        for of_node in (self._asked, self._staying, self._known):
            of_node.pop(node_id, None)


def _answered(calls: Mapping[str, ray.ObjectRef[Any]]) -> list[str]:
    """The nodes whose call has come back."""
    if not calls:
        return []
    answered, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=0)
    return [node_id for node_id, call in calls.items() if call in answered]


def fetch_snapshot_memory(token: str, rank: int, world_size: int) -> RankMemory:
    """In a worker: its rank's memory, with the newest snapshots that the gang can go on from.

    Where this node gets no keeper in time, it is memory that goes with this process.
    """
    node_id = ray.get_runtime_context().get_node_id()
    taken = take_snapshot_memory(token, node_id, rank, world_size, WAIT_SECONDS)
    return RankMemory() if taken is None else RankMemory(*taken)
