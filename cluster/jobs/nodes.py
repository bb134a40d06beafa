"""The cluster's nodes and what is free on them, as its head tells a process that has not joined it."""

from __future__ import annotations

from ray.autoscaler.v2.sdk import get_cluster_status

from cluster.jobs.room import Node


def cluster_nodes(head: str) -> list[Node]:
    """All nodes that are alive, from the head at HOST:PORT."""
    status = get_cluster_status(head)
    nodes = []
    for node in (*status.active_nodes, *status.idle_nodes):
        usage = node.resource_usage.usage if node.resource_usage else []
        total = {entry.resource_name: float(entry.total) for entry in usage}
        free = {entry.resource_name: float(entry.total) - float(entry.used) for entry in usage}
        nodes.append(Node(free, total))
    return nodes
