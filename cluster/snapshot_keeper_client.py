"""How a supervisor takes its rank's memory from the keeper on its node."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import struct
import time

from cluster.snapshot_keeper_wire import send_frame

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.05

MOST_FDS = 240
"""Descriptors that are handed out at once; the kernel passes 253, and a rank gets a few more."""

ANSWER_SECONDS = 90.0
"""How long a keeper may take, which may bring a snapshot from another node first; less than a gang gathers."""

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def socket_name(token: str, node: str) -> str:
    """Where the keeper of a node listens: a name in the abstract namespace, which leaves no file behind.

    All users of the machine can read it, so it tells nothing of the token.
    """
    return f"\0headrace-keeper-{hashlib.sha256(f'{token} {node}'.encode()).hexdigest()}"


def is_own_user(sock: socket.socket) -> bool:
    """Whether the process at the other end of a Unix socket is of this process's user."""
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(uid == os.getuid())


def take_snapshot_memory(
    token: str, node: str, rank: int, world_size: int, wait_seconds: float
) -> tuple[int, list[int]] | None:
    """A descriptor of the rank's memory from the keeper on this node; the caller closes it, and those that follow.

    Others follow where a gang of another size has newer snapshots: those of each of its ranks, in their order.
    None, with a warning, where no keeper listens within `wait_seconds`, or it does not hand out.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return _take(token, node, rank, world_size)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            if time.monotonic() > deadline:
                logger.warning("no keeper of snapshots on this node: %s", error)
                return None
            time.sleep(RETRY_SECONDS)
        except OSError as error:
            logger.warning("the keeper of snapshots gives no memory: %s", error)
            return None


def _take(token: str, node: str, rank: int, world_size: int) -> tuple[int, list[int]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_SECONDS)
        sock.connect(socket_name(token, node))
        if not is_own_user(sock):  # anyone may take the name, and is not to be shown the secret
            raise ConnectionError("another user's process listens in its place")
        send_frame(sock, {"token": token, "rank": rank, "world_size": world_size})
        word, fds, _, _ = socket.recv_fds(sock, 1, MOST_FDS)
        if not word or not fds:
            raise ConnectionError("the keeper closed the connection")
        return fds[0], fds[1:]
