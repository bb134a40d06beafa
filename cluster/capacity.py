"""What the cluster could hold, as Ray tells it and as its nodes answer."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray._private.state import available_resources_per_node, state

PROBE_SECONDS = 1.0
PROBES_AT_ONCE = 32


class HeadGoneError(Exception):
    """Nothing answers at the address of the cluster's head. refused: its machine says that nothing listens there."""

    def __init__(self, text: str, refused: bool) -> None:
        super().__init__(text)
        self.refused = refused


def answers(address: str, port: int) -> bool:
    """Whether something accepts connections there within a second."""
    return _refusal(address, port) is None


def _refusal(address: str, port: int) -> OSError | None:
    """Why nothing accepts connections there within a second, or None if something does."""
    try:
        socket.create_connection((address, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        return error
    return None


def workers_that_fit(free: Mapping[str, float], per_worker: Mapping[str, float]) -> int:
    """How many workers the free resources of one node hold. Pure."""
    return min(int(free.get(name, 0.0) / amount + 1e-6) for name, amount in per_worker.items() if amount > 0)


def _answering(nodes: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """By node id: Ray takes up to 15 s to know that a node is dead, a connection to its raylet tells at once."""
    with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
        probes = pool.map(lambda node: answers(node["NodeManagerAddress"], node["NodeManagerPort"]), nodes)
        return {node["NodeID"]: answer for node, answer in zip(nodes, probes, strict=True)}


def check_head() -> None:
    """Raise HeadGoneError if nothing answers at the address of the head: Ray itself would try for a minute."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    error = _refusal(host, int(port))
    if error is not None:
        text = f"the head of the Ray cluster at {host}:{port} does not answer ({error})"
        raise HeadGoneError(text, isinstance(error, ConnectionRefusedError)) from error


def survey(per_worker: Mapping[str, float]) -> tuple[dict[str, int], frozenset[str]]:
    """Workers that each node could hold beside what it holds now, by node id, and the nodes that do not answer.

    Args:
        per_worker: Ray's names and amounts of what a worker takes.
    """
    answering = _answering([node for node in ray.nodes() if node["Alive"]])
    free = available_resources_per_node()
    fits = {node: workers_that_fit(free.get(node, {}), per_worker) for node, answer in answering.items() if answer}
    return fits, frozenset(node for node, answer in answering.items() if not answer)


def draining_nodes() -> frozenset[str]:
    """Ids of the nodes that Ray was told will be taken away (preemption, scaling down, `ray drain-node`)."""
    return frozenset(state.get_draining_nodes())
