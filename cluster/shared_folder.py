"""Whether every node of a cluster sees the folders that a run reads and writes."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import NodeDiedError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import ClusterError

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 60


def read_token(path: str) -> str | None:
    """The token that the driver wrote, or None where this machine does not see it."""
    try:
        return Path(path).read_text()
    except OSError:
        return None


def refuse_blind_nodes(folder: Path, token: str, seen: Mapping[str, str | None]) -> None:
    """Raise ClusterError unless every node, by its address, read the driver's token. Pure."""
    blind = sorted(node for node, found in seen.items() if found != token)
    if blind:
        raise ClusterError(
            f"{folder}: must be a folder that all nodes of the cluster see, since ranks on any node write checkpoints "
            f"there; not seen by {', '.join(blind)}. Mount it there, or set out_dir and data.dir to shared storage."
        )


def check_shared(folders: Sequence[Path | str]) -> None:
    """Have each node of a cluster of several read a token that is written here; does nothing on one node.

    Addresses of object stores are the same from everywhere and are left out.

    Raises:
        ClusterError: naming the folder and the nodes that do not see it.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    reader = ray.remote(num_cpus=0)(read_token)
    for folder in [folder for folder in folders if isinstance(folder, Path)]:
        folder.mkdir(parents=True, exist_ok=True)
        token, path = secrets.token_hex(8), folder / f".token-{secrets.token_hex(4)}"
        path.write_text(token)
        try:
            on_each = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
            asked = [reader.options(scheduling_strategy=strategy).remote(str(path)) for strategy in on_each]
            found = _answers(dict(zip((node["NodeID"] for node in nodes), asked, strict=True)))
        finally:
            path.unlink()
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
        refuse_blind_nodes(folder, token, {addresses[node_id]: answer for node_id, answer in found.items()})


def _answers(asked: Mapping[str, Any]) -> dict[str, str | None]:
    """What each node read, by its id. One that Ray lost meanwhile is left out: Ray takes a killed node for alive for
    some seconds, and no gang is started on it."""
    deadline, found = time.monotonic() + DEADLINE_SECONDS, {}
    for node_id, answer in asked.items():
        try:
            found[node_id] = ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))
        except (TaskUnschedulableError, NodeDiedError, WorkerCrashedError) as error:
            if any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes()):
                raise
            logger.warning("a node of the cluster was lost while it was asked for the run's folders: %s", error)
    return found
