"""Ray nodes on this machine, the places of a run's workers on them, and how they are lost."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monitoring.journal import last_values, read_records


@contextmanager
def ray_nodes(workers: int) -> Iterator[Any]:
    """A cluster of a head without CPUs and of nodes with one each; Cluster.add_node wants the main thread."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(workers):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def places(out_dir: Path) -> dict[int, dict[str, Any]]:
    """By rank: node_id, address and pid of the newest gang's supervisors, as far as they have started."""
    found = {}
    for path in out_dir.glob("gangs/*/rank-*.json"):
        try:
            place = json.loads(path.read_text())
        except FileNotFoundError:  # the gang has ended meanwhile
            continue
        found[place["rank"]] = place
    return found


def node_of(cluster: Any, out_dir: Path, rank: int) -> Any:
    """The cluster's node that a rank is on."""
    node_id = places(out_dir)[rank]["node_id"]
    [node] = [node for node in cluster.list_all_nodes() if node.node_id == node_id]
    return node


def kill_raylet(node: Any) -> None:
    """SIGKILL a node's raylet: the node is lost, though its processes are not."""
    os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)


def kill_head(cluster: Any) -> None:
    """SIGKILL the head's own processes and its raylet; the other nodes stay."""
    for name in ("gcs_server", "raylet"):
        os.kill(cluster.head_node.all_processes[name][0].process.pid, signal.SIGKILL)


def drain(cluster: Any, node: Any, seconds: float) -> None:
    """Give Ray notice that a node will be taken away."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    deadline_ms = int((time.time() + seconds) * 1000)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = GcsClient(address=cluster.address).drain_node(node.node_id, reason, "a test", deadline_ms)
    assert accepted, why


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def believed(out_dir: Path, field: str) -> dict[int, Any]:
    """A field by step, of the records that are believed."""
    return {step: record[field] for step, record in last_values(read_records(out_dir)).items()}
