"""A Ray for one command on this machine: its head, without the processes that only a cluster has a use for.

`ray.init` starts an autoscaler's monitor, an API server and a forwarder of logs as well, waits for each, and has no
options for them; together they take as long as the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private.node import Node
from ray._private.parameter import RayParams


class LocalNode(Node):  # type: ignore[misc]  # Ray tells no types here
    """A head that is never a cluster's: no jobs are submitted to it, and its logs are read where they are."""

    def start_api_server(self, **options: Any) -> None:
        """Start none."""


@contextmanager
def local_node(cpus: int, object_store_bytes: int) -> Iterator[str]:
    """The address of a head that ends with the block; if this process is killed, its own reaper ends it."""
    params = RayParams(
        num_cpus=cpus,
        object_store_memory=object_store_bytes,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
    )
    node = LocalNode(params, head=True, shutdown_at_exit=False, spawn_reaper=True)
    try:
        yield node.address
    finally:
        node.kill_all_processes(check_alive=False, allow_graceful=True)
