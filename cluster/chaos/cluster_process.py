"""The process that holds a cluster of several Ray nodes on this machine: `python -m cluster.chaos.cluster_process`.

Ray adds nodes from a process's main thread only, and their processes end with it. It is asked by JSON lines on
standard input, answers each with one on standard output, and ends with its standard input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from ray.cluster_utils import Cluster

from cluster.processes import set_title

OBJECT_STORE_BYTES = 80 << 20


class Nodes:
    """A head without CPUs, and nodes that hold workers, numbered from 1 in the order in which they came."""

    def __init__(self, cpus_per_node: int) -> None:
        self._cpus = cpus_per_node
        self._next = 1
        self._nodes: dict[int, Any] = {}
        self._start_head()

    def _start_head(self) -> None:
        arguments = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        self._cluster = Cluster(initialize_head=True, head_node_args=arguments)

    def add(self) -> None:
        """One more node."""
        node = self._cluster.add_node(num_cpus=self._cpus, object_store_memory=OBJECT_STORE_BYTES)
        self._nodes[self._next] = node
        self._next += 1

    def remove(self, number: int, graceful: bool) -> None:
        """End a node's raylet, at once or as Ray ends one in order, and forget the node."""
        self._cluster.remove_node(self._nodes.pop(number), allow_graceful=graceful)

    def restart(self, count: int) -> None:
        """Kill the head and all nodes, and start as many anew: another cluster."""
        for node in self._cluster.list_all_nodes():
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self._nodes.clear()
        self._start_head()
        for _ in range(count):
            self.add()

    def close(self) -> None:
        """End every process."""
        for node in self._cluster.list_all_nodes():
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)

    def describe(self) -> dict[str, Any]:
        """The cluster's address and each node's raylet."""
        raylets = {number: node.all_processes["raylet"][0].process.pid for number, node in self._nodes.items()}
        return {"address": self._cluster.address, "raylets": raylets}


def obey(nodes: Nodes, order: Mapping[str, Any]) -> dict[str, Any]:
    """Do what one line asks for; the answer to it."""
    match order["do"]:
        case "add":
            nodes.add()
        case "remove":
            nodes.remove(order["node"], order["graceful"])
        case "restart":
            nodes.restart(order["count"])
    return nodes.describe()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpus-per-node", type=int, required=True)
    options = parser.parse_args()
    set_title("headrace: chaos cluster")
    answers = os.fdopen(os.dup(1), "w", buffering=1)  # what Ray prints must not get between the answers
    os.dup2(2, 1)
    nodes = Nodes(options.cpus_per_node)
    try:
        for line in sys.stdin:
            answers.write(json.dumps(obey(nodes, json.loads(line))) + "\n")
    finally:
        nodes.close()


if __name__ == "__main__":
    main()
