"""The coordinator's thread in rank 0's supervisor: sockets around the pure CoordinatorState."""

import hmac
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.connection import SILENT_PINGS, Connection, ConnectionLostError
from cluster.coordinator import (
    Action,
    CoordinatorState,
    Event,
    Lost,
    Open,
    Opened,
    OpenFailed,
    Tick,
)
from cluster.messages import Dead, Done, Down, Hello, Message, Moving, Stuck
from cluster.spec import GangSpec

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
DRAIN_SECONDS = 2.0
"""How long the last messages may take to be read before the connections are closed."""


@dataclass
class Peer:
    """A connection, and the rank that it said hello for (None until then)."""

    connection: Connection
    since: float
    rank: int | None = None


class CoordinatorServer(threading.Thread):
    """Listens on a free port of `host` from its making on; `address` is told to the other supervisors.

    take_attempt: takes the next attempt's number; OSError from it ends the gang.
    """

    def __init__(self, spec: GangSpec, world_size: int, host: str, take_attempt: Callable[[], int]) -> None:
        super().__init__(name="coordinator", daemon=True)
        self._spec = spec
        self._host = host
        self._take_attempt = take_attempt
        due = time.monotonic() + spec.start_seconds
        self._state = CoordinatorState(world_size, spec.max_failures, due)
        self._listener = socket.create_server((host, 0))
        self._listener.setblocking(False)
        self.address: tuple[str, int] = (host, self._listener.getsockname()[1])
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[int, Peer] = {}
        self._stores: dict[int, socket.socket] = {}
        self._closing = threading.Event()

    def take_store(self, attempt: int) -> socket.socket:
        """The listening socket of the attempt's store; the caller owns it from now on."""
        return self._stores.pop(attempt)

    def close(self) -> None:
        """End the thread; if the gang has not ended, the others see their connections close."""
        self._closing.set()
        self.join()

    def run(self) -> None:
        try:
            while not self._state.ended and not self._closing.is_set():
                self._turn()
            if self._state.ended:
                self._drain()
        finally:
            self._close_sockets()

    def _turn(self) -> None:
        ready = self._selector.select(TICK_SECONDS)
        for key, _ in ready:
            if key.fileobj is self._listener:
                self._accept()
            else:
                self._read(key.fd)
        now = time.monotonic()
        for fd in list(self._peers):
            self._tick_peer(fd, now)
        self._handle(Tick())

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # the other side has gone again, or descriptors are short for now
            logger.warning("a connection was not accepted: %s", error)
            return
        now = time.monotonic()
        peer = Peer(Connection(sock, self._spec.ping_seconds, now), now)
        self._peers[sock.fileno()] = peer
        self._selector.register(sock.fileno(), selectors.EVENT_READ)

    def _read(self, fd: int) -> None:
        peer = self._peers.get(fd)
        if peer is None:  # dropped in this turn
            return
        try:
            for message in peer.connection.receive(time.monotonic()):
                self._hear(peer, message)
        except ConnectionLostError as error:
            self._drop(fd, str(error))

    def _hear(self, peer: Peer, message: Message) -> None:
        if peer.rank is None:
            self._admit(peer, message)
        elif isinstance(message, Dead | Stuck | Moving | Down | Done):
            self._handle(message)
        else:
            raise ConnectionLostError(f"unexpected message {message}")

    def _admit(self, peer: Peer, message: Message) -> None:
        if not isinstance(message, Hello) or not _same_token(message.token, self._spec.token):
            raise ConnectionLostError("no hello with this gang's token")
        taken = {other.rank for other in self._peers.values()}
        if message.rank in taken or message.rank not in range(self._state.world_size):
            raise ConnectionLostError(f"no place for rank {message.rank}")
        peer.rank = message.rank
        self._handle(message)

    def _tick_peer(self, fd: int, now: float) -> None:
        peer = self._peers.get(fd)
        if peer is None:  # dropped in this turn
            return
        try:
            peer.connection.tick(now)
            if peer.rank is None and now - peer.since > SILENT_PINGS * self._spec.ping_seconds:
                raise ConnectionLostError("no hello")
        except ConnectionLostError as error:
            self._drop(fd, str(error))

    def _drop(self, fd: int, reason: str) -> None:
        peer = self._peers.pop(fd, None)
        if peer is None:  # telling the others of one loss can find another
            return
        self._selector.unregister(fd)
        peer.connection.close()
        if peer.rank is None:
            logger.warning("dropped a connection: %s", reason)
        else:
            self._handle(Lost(peer.rank, reason))

    def _handle(self, event: Event) -> None:
        self._state, actions = self._state.handle(event, time.monotonic())
        for action in actions:
            self._act(action)

    def _act(self, action: Action) -> None:
        if isinstance(action, Open):
            self._handle(self._open_attempt())
            return
        logger.info("to all ranks: %s", action)
        for fd, peer in list(self._peers.items()):
            try:
                if peer.rank is not None:
                    peer.connection.send(action)
            except ConnectionLostError as error:
                self._drop(fd, str(error))

    def _open_attempt(self) -> Opened | OpenFailed:
        try:
            store = socket.create_server((self._host, 0), backlog=512)
        except OSError as error:
            return OpenFailed(f"no port for a new attempt: {error}")
        try:
            attempt = self._take_attempt()  # last: a number that is taken and not used would look like another gang's
        except OSError as error:
            store.close()
            return OpenFailed(f"no new attempt: {error}")
        # An attempt that was stopped before rank 0 was forked leaves its socket here.
        for abandoned in self._stores.values():
            abandoned.close()
        self._stores = {attempt: store}
        return Opened(attempt, self._host, store.getsockname()[1])

    def _drain(self) -> None:
        """Let the others read the last words: a close with unread input would throw them away."""
        deadline = time.monotonic() + DRAIN_SECONDS
        self._selector.unregister(self._listener)
        for fd in list(self._peers):
            self._last_words(fd)
        while self._peers and time.monotonic() < deadline:
            for key, _ in self._selector.select(TICK_SECONDS):
                self._discard(key.fd)

    def _last_words(self, fd: int) -> None:
        try:
            self._peers[fd].connection.flush()
            self._peers[fd].connection.finish_sending()
        except ConnectionLostError as error:
            self._drop(fd, str(error))

    def _discard(self, fd: int) -> None:
        try:
            self._peers[fd].connection.receive(time.monotonic())
        except ConnectionLostError as error:
            self._drop(fd, str(error))

    def _close_sockets(self) -> None:
        for sock in (self._listener, *self._stores.values()):
            sock.close()
        for peer in self._peers.values():
            peer.connection.close()
        self._selector.close()


def _same_token(found: object, token: str) -> bool:
    """Whether a hello's token, which may be anything, is the gang's; in a time that does not depend on it."""
    return isinstance(found, str) and hmac.compare_digest(found.encode(), token.encode())
