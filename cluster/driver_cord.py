"""A connection from each worker of a gang to its driver: whoever outlives the driver ends itself at once.

Ray ends the workers of a driver that died, as long as its head lives; the cord does without. The driver only listens:
connections that nobody accepts are closed by the kernel when the listening process ends, however it ends.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
KEEPALIVE = {socket.TCP_KEEPIDLE: 2, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 3}
"""Seconds, seconds and tries: a driver's machine that is gone without a word is noticed in 5 s."""

LEAST_BACKLOG = 128

Address = tuple[str, int]


class Cord:
    """The driver's end, for so many processes; they are told `address`. Its close ends those left."""

    def __init__(self, host: str, holders: int) -> None:
        # Some may hold on twice, or a probe come in between: whoever finds no place is taken for cut off.
        self._listener = socket.create_server((host, 0), backlog=max(LEAST_BACKLOG, 2 * holders))
        self.address: Address = (host, self._listener.getsockname()[1])

    @property
    def closed(self) -> bool:
        """Whether it was let go."""
        return self._listener.fileno() == -1

    def close(self) -> None:
        """Let go, whether the workers have ended or not."""
        self._listener.close()


def _end_this_process() -> None:
    logger.error("the driver is gone; this worker ends")
    os.kill(os.getpid(), signal.SIGKILL)  # its zygote and rank go with it, by their parent-death signals


def hold_on(address: Address, on_lost: Callable[[], None] = _end_this_process) -> None:
    """Have this process ended once the driver at `address` is gone; OSError if it is so already."""
    try:
        connection = socket.create_connection(address, timeout=CONNECT_SECONDS)
    except OSError as error:
        raise ConnectionError(
            f"{socket.gethostname()} cannot open a connection to the driver at {address[0]}:{address[1]} ({error}); "
            f"every node must be able to open connections to the driver's machine."
        ) from error
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    threading.Thread(target=_wait_for_end, args=(connection, on_lost), name="driver-cord", daemon=True).start()


def _wait_for_end(connection: socket.socket, on_lost: Callable[[], None]) -> None:
    with connection:
        try:
            connection.recv(1)  # the driver never sends
        except OSError as error:
            logger.debug("the driver's connection broke: %s", error)
    on_lost()
