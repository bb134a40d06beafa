"""Has every node of a Ray cluster look at itself and at its neighbours, for `headrace doctor`."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.util
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.access import asks_for_token
from cluster.doctor import ClusterFacts, Link
from cluster.node_facts import NodeFacts, find_facts
from cluster.shared_folder import read_token

logger = logging.getLogger(__name__)

START_SECONDS, ANSWER_SECONDS = 60.0, 60.0
CLOCK_PROBES = 5
LINK_BYTES, ALL_REDUCE_BYTES = 64 << 20, 16 << 20
_CHUNK = bytes(1 << 20)
_CONNECT_SECONDS = 5.0


class Visitor:
    """On one node. Its host is the address by which the others know the node."""

    def __init__(self, node: str, disk_folder: str) -> None:
        self._node, self._disk_folder = node, disk_folder

    def facts(self) -> NodeFacts:
        """See `node_facts`."""
        return find_facts(self._node, self._disk_folder)

    def now(self) -> float:
        """Its clock."""
        return time.time()

    def reads(self, path: str) -> str | None:
        """What a file holds, None where it is not seen."""
        return read_token(path)

    def listen(self, host: str) -> int:
        """Take in what one other node sends to `host`, this node's address, at the port that is returned."""
        listener = socket.create_server((host, 0))

        def serve() -> None:
            listener.settimeout(ANSWER_SECONDS)
            try:
                with listener, listener.accept()[0] as sock:
                    sock.settimeout(ANSWER_SECONDS)
                    while sock.recv(len(_CHUNK)):
                        pass
                    sock.sendall(b"!")
            except OSError as error:  # the sender says what is wrong
                logger.debug("nothing came: %s", error)

        threading.Thread(target=serve, name="link", daemon=True).start()
        port: int = listener.getsockname()[1]
        return port

    def send_to(self, host: str, port: int) -> tuple[float, str]:
        """Bytes per second to another node; 0 and the reason where it cannot be reached."""
        try:
            with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as sock:
                sock.settimeout(ANSWER_SECONDS)
                began = time.perf_counter()
                for _ in range(LINK_BYTES // len(_CHUNK)):
                    sock.sendall(_CHUNK)
                sock.shutdown(socket.SHUT_WR)
                sock.recv(1)
                return LINK_BYTES / (time.perf_counter() - began), ""
        except OSError as error:
            return 0.0, f"{host}:{port}: {error}"

    def free_port(self, host: str) -> int:
        """A port of `host`, this node's address, that was free just now."""
        with socket.create_server((host, 0)) as listener:
            port: int = listener.getsockname()[1]
            return port

    def all_reduce(self, rank: int, world_size: int, host: str, port: int) -> float:
        """Bytes per second of the best of a few sums over all nodes; every node calls it at once."""
        import torch
        import torch.distributed as dist

        timeout = timedelta(seconds=ANSWER_SECONDS / 2)
        dist.init_process_group(
            "gloo", init_method=f"tcp://{host}:{port}", rank=rank, world_size=world_size, timeout=timeout
        )
        values = torch.ones(ALL_REDUCE_BYTES // 4)
        best_seconds = float("inf")
        for _ in range(4):  # the first one makes connections
            began = time.perf_counter()
            dist.all_reduce(values)
            best_seconds = min(best_seconds, time.perf_counter() - began)
        dist.destroy_process_group()
        return ALL_REDUCE_BYTES / best_seconds


def visit(address: str, folders: Sequence[Path], disk_folder: str) -> ClusterFacts:
    """What there is to know of the cluster that this process has joined.

    folders: those that all nodes must see; disk_folder: on each node, whose disk is looked at.
    """
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    names = [node["NodeManagerAddress"] for node in nodes]
    if len({*names}) < len(names):  # several on one machine
        names = [f"{name} ({node['NodeID'][:6]})" for name, node in zip(names, nodes, strict=True)]
    visitors = [_start(node["NodeID"], name, disk_folder) for node, name in zip(nodes, names, strict=True)]
    ray.get([visitor.now.remote() for visitor in visitors], timeout=START_SECONDS)
    facts = _alone(visitors)
    clocks = [_clock(visitor) for visitor in visitors]
    seen = [_folders_seen(visitor, folders) for visitor in visitors]
    known = [
        dataclasses.replace(one, clock_offset_seconds=offset, clock_uncertainty_seconds=unsure, folders_seen=read)
        for one, (offset, unsure), read in zip(facts, clocks, seen, strict=True)
    ]
    hosts = [node["NodeManagerAddress"] for node in nodes]
    rate, problem = _all_reduce(visitors, hosts)
    return ClusterFacts(
        nodes=known,
        links=_links(visitors, hosts, names),
        all_reduce_bytes_per_second=rate,
        all_reduce_problem=problem,
        address=address,
        is_open=not asks_for_token(ray.get_runtime_context().gcs_address),
    )


def _start(node_id: str, name: str, disk_folder: str) -> Any:
    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0)(Visitor).options(scheduling_strategy=where).remote(name, disk_folder)


def _alone(visitors: Sequence[Any]) -> list[NodeFacts]:
    """One after the other: nodes of one machine would slow each other down."""
    return [ray.get(visitor.facts.remote(), timeout=ANSWER_SECONDS) for visitor in visitors]


def _clock(visitor: Any) -> tuple[float, float]:
    """(offset, uncertainty) in seconds, of the probe with the shortest way there and back (Cristian, 1989)."""
    probes = []
    for _ in range(CLOCK_PROBES):
        asked = time.time()
        told = ray.get(visitor.now.remote(), timeout=ANSWER_SECONDS)
        answered = time.time()
        probes.append(((answered - asked) / 2, told - (asked + answered) / 2))
    uncertainty, offset = min(probes)
    return offset, uncertainty


def _folders_seen(visitor: Any, folders: Sequence[Path]) -> dict[str, bool]:
    seen = {}
    for folder in folders:
        token, path = secrets.token_hex(8), folder / f".token-{secrets.token_hex(4)}"
        path.write_text(token)
        try:
            seen[str(folder)] = ray.get(visitor.reads.remote(str(path)), timeout=ANSWER_SECONDS) == token
        finally:
            path.unlink()
    return seen


def _links(visitors: Sequence[Any], hosts: Sequence[str], names: Sequence[str]) -> list[Link]:
    """Each node sends to the next one, round the ring."""
    if len(visitors) < 2:
        return []
    links = []
    for index, visitor in enumerate(visitors):
        other = (index + 1) % len(visitors)
        port = ray.get(visitors[other].listen.remote(hosts[other]), timeout=ANSWER_SECONDS)
        rate, problem = ray.get(visitor.send_to.remote(hosts[other], port), timeout=2 * ANSWER_SECONDS)
        links.append(Link(names[index], names[other], rate, problem))
    return links


def _all_reduce(visitors: Sequence[Any], hosts: Sequence[str]) -> tuple[float | None, str]:
    """(rate, problem): of a sum over all nodes."""
    if len(visitors) < 2:
        return None, ""
    port = ray.get(visitors[0].free_port.remote(hosts[0]), timeout=ANSWER_SECONDS)
    calls = [one.all_reduce.remote(rank, len(visitors), hosts[0], port) for rank, one in enumerate(visitors)]
    try:
        return min(ray.get(calls, timeout=ANSWER_SECONDS)), ""
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return None, f"a sum over all nodes failed: {lines[-1].strip() if lines else type(error).__name__}"
