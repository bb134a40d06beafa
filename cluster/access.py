"""Who may use a Ray: where it listens, the token that it asks for, and a word where it asks for none.

Whoever may speak to a Ray may run code with its rights.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
TOKEN_FILE = Path.home() / ".ray/auth_token"
ANY_REQUEST = "/ray.rpc.NodeInfoGcsService/CheckAlive"
# As on laptops whose firewall would ask: Ray takes 127.0.0.1 for this machine's address, and listens there alone.
_LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def asks_for_token(address: str) -> bool:
    """Whether the cluster at HOST:PORT refuses who shows no token. One that asks for none hangs who insists on it."""
    import grpc  # type: ignore[import-untyped]  # it comes with Ray; only who has a token needs it

    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(ANY_REQUEST)
        try:
            ask(b"", timeout=CONNECT_SECONDS)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def show_token() -> None:
    """Have Ray send the token. It read the mode when it was imported, so the variable alone would come too late."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    os.environ.setdefault("RAY_AUTH_MODE", "token")
    Config.initialize("")


def keep_token_private(path: Path) -> None:
    """Take from others the right to read a token's file, which Ray makes as readable as any; none is no matter."""
    if path.is_file() and path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o077:
        path.chmod(0o600)
        logger.info("%s: others could read it; now only you can", path)


def make_token(path: Path) -> None:
    """A token of one's own for a local Ray, which would make one that others can read.

    Not where the environment has one or does without (`RAY_AUTH_MODE=disabled`), nor where the file is there.
    """
    is_off = os.environ.get("RAY_AUTH_MODE", "token").lower() != "token"
    if is_off or path.exists() or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)  # for its owner alone
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    with suppress(FileExistsError):  # another command was faster
        path.hardlink_to(name)
    Path(name).unlink()


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is reached from its own machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def warn_if_open(address: str) -> None:
    """Warn of a cluster beyond this machine, whose head is at HOST:PORT, that takes orders from anyone."""
    if not is_loopback(address) and not asks_for_token(address):
        logger.warning(
            "the cluster at %s asks for no token: whoever reaches it may run code on it and read what it reads; "
            "start its nodes with RAY_AUTH_MODE=token (SECURITY.md)",
            address,
        )


@contextmanager
def loopback_only() -> Iterator[None]:
    """A Ray that is started in the block listens on this machine's loopback, not on all of its networks."""
    from ray._private import ray_constants

    before, variable = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(_LOOPBACK_VARIABLE)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[_LOOPBACK_VARIABLE] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if variable is None:
            del os.environ[_LOOPBACK_VARIABLE]
        else:
            os.environ[_LOOPBACK_VARIABLE] = variable
