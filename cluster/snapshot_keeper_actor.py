"""Keepers of snapshots on Ray: an actor on each node, owned by the driver, with which they all go."""

from __future__ import annotations

import logging
import os
import threading
import time
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

ANSWER_SECONDS = 2.0
MEET_SECONDS = 10.0
"""How long the keepers that have started wait for the others before they meet without them."""

TITLE_SECONDS = 1.0
FOREVER_SECONDS = 1e6
MOST_KEEPERS = 4096  # of a command, those that are gone among them
WAIT_SECONDS = 20.0
"""How long a worker waits for its node's keeper, which may be starting."""


class KeeperActor:
    """A keeper in a process of its own."""

    def __init__(self, name: str, node_id: str, token: str, is_local: bool, driver: Address) -> None:
        threading.Thread(target=_end_with, args=(os.getppid(),), name="raylet", daemon=True).start()
        host = "127.0.0.1" if is_local else ray.util.get_node_ip_address()
        self._keeper = Keeper(node_id, token, host, _each_look(f"headrace: keeper of {name}"))
        hold_on(driver)

    def address(self) -> Address:
        """Where other keepers reach it."""
        return self._keeper.address

    def meet(self, addresses: Mapping[str, Address]) -> None:
        """Learn the keepers of the run: the address of each, by node."""
        self._keeper.meet(addresses)


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
        self._actors: dict[str, Any] = {}
        self._addresses: dict[str, ray.ObjectRef[Address]] = {}

    @property
    def nodes(self) -> list[str]:
        """Ids of the nodes that have a keeper."""
        return list(self._actors)

    def cover_nodes(self, without: Collection[str] = ()) -> None:
        """Have a keeper on every node that is there now, before a gang starts.

        New ones are waited for, but not for long: one that is late meets the others at the next call. The keepers of
        nodes that are gone are left out, and one that has died is replaced. without: ids of nodes that Ray takes for
        alive and that are not.
        """
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in without]
        for node_id in [node_id for node_id in self._actors if node_id not in alive]:
            self._leave_out(node_id)
        for node_id in self._dead():
            logger.warning("the keeper of snapshots on node %s is gone; it gets a new one", node_id)
            self._leave_out(node_id)
        for node_id in alive:
            if node_id not in self._actors:
                self._actors[node_id] = self._start(node_id)
                self._addresses[node_id] = self._actors[node_id].address.remote()
        addresses = self._known_addresses()
        for actor in self._actors.values():
            actor.meet.remote(addresses)

    def let_go(self) -> None:
        """Have the keepers end themselves, without Ray, whose head may be gone."""
        self._cord.close()

    def close(self) -> None:
        """End the keepers, and let go of all snapshots."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors, self._addresses = {}, {}
        self.let_go()

    def _start(self, node_id: str) -> Any:
        actor = ray.remote(num_cpus=0, max_restarts=0)(KeeperActor).options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
        )
        return actor.remote(node_id=node_id, **self._arguments)

    def _known_addresses(self) -> dict[str, Address]:
        """By node, of the keepers that have started in time; those that cannot start are left out."""
        asked, known = dict(self._addresses), {}
        if len(asked) < 2:  # a lone keeper meets nobody, so that the gang need not wait for it
            return {}
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=MEET_SECONDS)
        for node_id, address in asked.items():
            try:
                known[node_id] = ray.get(address, timeout=0)
            except ray.exceptions.GetTimeoutError:
                logger.warning("the keeper of snapshots on node %s is late; the others meet without it", node_id)
            except ray.exceptions.ActorDiedError as error:
                logger.warning("node %s goes without a keeper of snapshots: %s", node_id, error)
                self._leave_out(node_id)
            except ray.exceptions.RayError as error:
                logger.warning("the keeper of snapshots on node %s does not answer: %s", node_id, error)
                self._addresses[node_id] = self._actors[node_id].address.remote()
        return known

    def _leave_out(self, node_id: str) -> None:
        ray.kill(self._actors.pop(node_id))
        del self._addresses[node_id]

    def _dead(self) -> list[str]:
        """The nodes whose keepers have died. One that is slow to answer is not dead: it holds snapshots."""
        if not self._actors:
            return []
        calls = {actor.address.remote(): node_id for node_id, actor in self._actors.items()}
        ray.wait(list(calls), num_returns=len(calls), timeout=ANSWER_SECONDS)
        dead = []
        for call, node_id in calls.items():
            try:
                ray.get(call, timeout=0)
            except ray.exceptions.GetTimeoutError:
                logger.debug("the keeper on node %s does not answer yet", node_id)
            except ray.exceptions.RayActorError as error:
                if isinstance(error, ray.exceptions.ActorDiedError):
                    dead.append(node_id)
        return dead


def fetch_snapshot_memory(token: str, nodes: list[str], rank: int, world_size: int) -> RankMemory:
    """In a worker: its rank's memory, with the newest snapshots that the gang can go on from.

    nodes: those that have a keeper. Where this node has no keeper, it is memory that goes with this process.
    """
    node_id = ray.get_runtime_context().get_node_id()
    taken = take_snapshot_memory(token, node_id, rank, world_size, WAIT_SECONDS) if node_id in nodes else None
    return RankMemory() if taken is None else RankMemory(*taken)
