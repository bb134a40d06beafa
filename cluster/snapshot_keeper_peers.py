"""The other keepers of a run, and how to ask them."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping

from cluster.snapshot_keeper_wire import Frame, limit_stalls, receive_frame, send_frame

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
RETRY_SECONDS = 30.0
"""So long is a keeper left out that did not answer; it may have been slow."""

Address = tuple[str, int]


class Peers:
    """Keepers on other nodes by the node's name. One that does not answer is left out for a while.

    Safe to use from several threads.
    """

    def __init__(self, node: str, token: str) -> None:
        self.node = node
        self._token = token
        self._addresses: dict[str, Address] = {}
        self._left_out: dict[str, float] = {}  # until when, in monotonic seconds
        self._met = threading.Event()

    def meet(self, addresses: Mapping[str, Address]) -> None:
        """Learn who is there; this node's own keeper among them is left out."""
        self._addresses = {node: address for node, address in addresses.items() if node != self.node}
        self._left_out = {}
        self._met.set()

    def wait_until_met(self, seconds: float) -> bool:
        """Whether `meet` was called, waiting for it."""
        return self._met.wait(seconds)

    def forgive(self) -> None:
        """Ask those again that were left out: what is asked next is worth the wait."""
        self._left_out = {}

    @property
    def nodes(self) -> list[str]:
        """The nodes whose keepers answer, as far as is known."""
        now, left_out = time.monotonic(), dict(self._left_out)
        return sorted(node for node in self._addresses if left_out.get(node, now) <= now)

    def lost(self, node: str, error: OSError) -> None:
        """Leave out a keeper that does not answer."""
        logger.warning("the keeper of snapshots on %s does not answer: %s", node, error)
        self._left_out[node] = time.monotonic() + RETRY_SECONDS

    def connect(self, node: str) -> socket.socket:
        """A connection to the keeper on a node, with our secret shown. OSError if it does not answer."""
        address = self._addresses.get(node)
        if address is None:
            raise ConnectionError(f"no keeper on {node}")
        sock = socket.create_connection(address, timeout=CONNECT_SECONDS)
        limit_stalls(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        send_frame(sock, {"token": self._token})
        return sock

    def ask_all(self, question: Frame) -> dict[str, Frame]:
        """Everyone's answer by node, of those who answer."""
        answers = {}
        for node in self.nodes:
            try:
                with self.connect(node) as sock:
                    send_frame(sock, question)
                    answer = receive_frame(sock)
            except OSError as error:
                self.lost(node, error)
                continue
            if answer is not None:
                answers[node] = answer
        return answers
