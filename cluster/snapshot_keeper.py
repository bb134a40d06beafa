"""The keeper of a node's snapshots: it owns the memory that ranks write to, so that it outlives their supervisors.

One per node and run. A supervisor takes its rank's memory from it over a Unix socket (`take_snapshot_memory`); every
new snapshot is copied to the keeper of another node, from where it comes back when this node is lost. Nothing is in
the file system: everything goes with the keepers.
"""

from __future__ import annotations

import hmac
import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Mapping

from cluster.snapshot_keeper_client import MOST_FDS, is_own_user, socket_name
from cluster.snapshot_keeper_copier import Copier
from cluster.snapshot_keeper_holders import HeldBySize, common_steps, newest_of_other_sizes
from cluster.snapshot_keeper_memory import KeptMemory
from cluster.snapshot_keeper_peers import Address, Peers
from cluster.snapshot_keeper_store import Key, SnapshotStore
from cluster.snapshot_keeper_wire import (
    Frame,
    describe,
    limit_stalls,
    receive_frame,
    receive_snapshot,
    send_frame,
    send_snapshot,
)
from trainer.checkpoint.memory_layout import SLOTS
from trainer.free_memory import LARGEST_SHARE_OF_MEMORY, free_memory_bytes

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.005
LONE_LOOK_SECONDS = 0.1
"""How often a keeper looks for a new snapshot, where another node is to have it, and where none is or none is made."""

MEET_SECONDS = 20.0
_BACKLOG = 64
_NICENESS = 19


class Keeper:
    """Starts its threads when it is made.

    node: the name by which the keepers know this node; token: the run's secret, without which nobody is answered;
    host: the address at which other nodes reach this one; on_look: called ten times a second and oftener.
    """

    def __init__(
        self, node: str, token: str, host: str = "127.0.0.1", on_look: Callable[[], None] = lambda: None
    ) -> None:
        self._token = token
        self.store = SnapshotStore()
        self._peers = Peers(node, token)
        self._copier = Copier(self.store, self._peers)
        self._on_look = on_look
        self._closed = threading.Event()
        self._tcp = socket.create_server((host, 0), backlog=_BACKLOG)
        self._unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._unix.bind(socket_name(token, node))
        self._unix.listen(_BACKLOG)
        self.address: Address = self._tcp.getsockname()
        _start_thread(_accept, self._tcp, self._serve_peer)
        _start_thread(_accept, self._unix, self._serve_supervisor)
        _start_thread(self._look)

    def meet(self, addresses: Mapping[str, Address]) -> None:
        """Learn the keepers of the run by node (this one among them or not). Nothing is handed out before."""
        self._peers.meet(addresses)

    def close(self) -> None:
        """Answer nobody any more. The memories go with the last reference to the keeper and to them."""
        self._closed.set()
        for listener in (self._tcp, self._unix):
            listener.shutdown(socket.SHUT_RDWR)  # or who waits in accept would wait on
            listener.close()

    def hand_out(self, key: Key) -> list[KeptMemory]:
        """Memory for a rank that is placed on this node, with the newest snapshots that the whole gang can go on from.

        It is a new one each time: a rank of an earlier attempt that comes back to life writes where nobody reads.
        Where a gang of another size has newer snapshots, those of each of its ranks follow.
        """
        if not self._peers.wait_until_met(MEET_SECONDS):
            logger.warning("the keepers have not met within %.0f s; snapshots stay on this node", MEET_SECONDS)
        self._peers.forgive()
        answers = self._peers.ask_all({"ask": "survey", "world_size": key.world_size, "claimed": key.rank})
        held = {node: _with_numbers(told["held"]) for node, told in answers.items()}
        held[self._peers.node] = self.store.held()
        self.store.leave_other_sizes(key.world_size)
        memory = KeptMemory()
        memory.want_copies(min(1, len(self._peers.nodes)))
        steps = common_steps(key.world_size, [sizes.get(key.world_size, {}) for sizes in held.values()], SLOTS)
        for step in steps:
            self._fill(memory, key, step, held)
        numbers = memory.numbers()
        memory.writes_before = numbers.writes if numbers is not None else 0
        self.store.own(key, memory)
        return [memory, *self._former(key.world_size, max(steps, default=-1), held)]

    def _former(self, world_size: int, newest: int, held: Mapping[str, HeldBySize]) -> list[KeptMemory]:
        """The snapshots of each rank of a gang of another size, where those are newer than `newest`."""
        found = newest_of_other_sizes(world_size, list(held.values()))
        if found is None or found[1] <= newest:
            return []
        return self.store.gathered(*found, lambda: self._gather(*found, held))

    def _gather(self, size: int, step: int, held: Mapping[str, HeldBySize]) -> list[KeptMemory]:
        memories: list[KeptMemory] = []
        for rank in range(size):
            memory = KeptMemory()
            memories.append(memory)
            is_filled = self._fill(memory, Key(rank, size), step, held)
            needed = (size - 1 - rank) * memory.size // SLOTS
            if not is_filled or needed > LARGEST_SHARE_OF_MEMORY * free_memory_bytes() or size >= MOST_FDS:
                logger.warning("the snapshots of the former %d ranks cannot all be brought here", size)
                return []
        return memories

    def _fill(self, memory: KeptMemory, key: Key, step: int, held: Mapping[str, HeldBySize]) -> bool:
        picked = self.store.find(key, step)
        if picked is not None and picked.copy_to(memory):
            return True
        nodes = [node for node in held if step in held[node].get(key.world_size, {}).get(key.rank, ())]
        if any(self._get(memory, key, step, node) for node in nodes if node != self._peers.node):
            return True
        logger.warning("step %d of rank %d of %d was held, but could not be brought here", step, *key)
        return False

    def _get(self, memory: KeptMemory, key: Key, step: int, node: str) -> bool:
        try:
            with self._peers.connect(node) as sock:
                send_frame(sock, {"ask": "get", **key._asdict(), "step": step})
                described = receive_frame(sock)
                return described is not None and "step" in described and receive_snapshot(sock, memory, described)
        except OSError as error:
            self._peers.lost(node, error)
            return False

    # ---- threads

    def _look(self) -> None:
        os.nice(_NICENESS)  # of this thread alone: the ranks need the cores more
        while not self._closed.wait(LOOK_SECONDS if self._has_copies_to_send() else LONE_LOOK_SECONDS):
            self._copier.look()
            self._on_look()
        self._copier.close()

    def _has_copies_to_send(self) -> bool:
        return bool(self.store.owned()) and bool(self._peers.nodes)

    def _serve_supervisor(self, sock: socket.socket) -> None:
        if not is_own_user(sock):
            return
        request = receive_frame(sock)
        if request is not None and self._knows(request):
            memories = self.hand_out(Key(request["rank"], request["world_size"]))
            socket.send_fds(sock, [b"m"], [memory.fd for memory in memories])

    def _serve_peer(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limit_stalls(sock)
        first = receive_frame(sock)
        if first is None or not self._knows(first):
            return
        idle = select.poll()
        idle.register(sock, select.POLLIN)
        while not self._closed.is_set():
            idle.poll()  # a holder of copies may hear nothing for long
            frame = receive_frame(sock)
            if frame is None:
                return
            self._answer(sock, frame)

    def _answer(self, sock: socket.socket, frame: Frame) -> None:
        if frame["ask"] == "survey":
            send_frame(sock, self._survey(frame["world_size"], frame["claimed"]))
            return
        key = Key(frame["rank"], frame["world_size"])
        if frame["ask"] == "put":
            self._take_copy(sock, key, frame)
        elif frame["ask"] == "get":
            picked = self.store.find(key, frame["step"])
            send_frame(sock, describe(picked) if picked is not None else {})
            if picked is not None:
                send_snapshot(sock, picked)
        elif frame["ask"] == "forget":
            self.store.keep_only(key, {(step, version) for step, version in frame["kept"]})
            send_frame(sock, {})
        elif frame["ask"] == "keep size":
            self.store.keep_size(key.world_size)
            send_frame(sock, {})
        elif frame["ask"] == "drop":
            self.store.drop(key, but_copy=frame["holder"] == self._peers.node)
            send_frame(sock, {})
        else:
            raise ConnectionError(f"an unknown question: {frame['ask']}")

    def _survey(self, world_size: int, claimed: int | None) -> Frame:
        """What is held here, and of which ranks the memory is owned. claimed: a rank that is on another node now."""
        if claimed is not None:
            self.store.leave(Key(claimed, world_size))
            self.store.leave_other_sizes(world_size)
        owned = [key.rank for key in self.store.owned() if key.world_size == world_size]
        return {"held": self.store.held(), "owned": owned}

    def _take_copy(self, sock: socket.socket, key: Key, described: Frame) -> None:
        if os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < _NICENESS:
            os.nice(_NICENESS)  # of this thread alone
        memory = self.store.copy(key)
        has_room = (
            memory.size == described["size"] or described["size"] <= LARGEST_SHARE_OF_MEMORY * free_memory_bytes()
        )
        send_frame(sock, {"go": has_room})
        if has_room:
            with memory.receiving:
                receive_snapshot(sock, memory, described)

    def _knows(self, frame: Frame) -> bool:
        return hmac.compare_digest(str(frame.get("token")).encode(), self._token.encode())


def _with_numbers(held: Mapping[str, Mapping[str, list[int]]]) -> HeldBySize:
    """What came as JSON, whose keys are texts."""
    return {int(size): {int(rank): steps for rank, steps in ranks.items()} for size, ranks in held.items()}


def _start_thread(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, name=f"keeper{target.__name__}", daemon=True).start()


def _accept(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """Serve each connection in a thread of its own, until the listener is closed."""
    while True:
        try:
            sock, _ = listener.accept()
        except OSError as error:
            logger.debug("the keeper listens no more: %s", error)
            return
        _start_thread(_serve_one, sock, serve)


def _serve_one(sock: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    with sock:
        try:
            serve(sock)
        except OSError as error:
            logger.debug("a connection to the keeper ended: %s", error)
