"""Whether a gang has room on a cluster, and the figures of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.capacity import workers_that_fit
from cluster.errors import ClusterError
from cluster.jobs.ticket import Gang

_SIGN = "waiting for room: "
_LINE = re.compile(
    _SIGN + r"asked (\d+) workers? of (\d+) CPU(?: and (\d+) GPU)?; "
    r"free ([\d.]+) CPU, ([\d.]+) GPU; largest gang that would fit (\d+); (\d+) runs? before it"
)


@dataclass(frozen=True)
class Node:
    """A node's resources, by Ray's names: what is free now, and all of it."""

    free: Mapping[str, float]
    total: Mapping[str, float]


@dataclass(frozen=True)
class Room:
    """What a run in line waits for. largest: of its workers, so many would fit now; before: runs before it in line."""

    gang: Gang
    free_cpus: float
    free_gpus: float
    largest: int
    before: int

    def to_line(self) -> str:
        """One line for people; `room_from_log` reads it back."""
        return (
            f"{_SIGN}asked {self.gang}; free {self.free_cpus:g} CPU, {self.free_gpus:g} GPU; "
            f"largest gang that would fit {self.largest}; {self.before} run{'' if self.before == 1 else 's'} before it"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def room_from_log(log: str) -> Room | None:
    """The newest figures in a job's log; None if it has not waited."""
    found = None
    for found in _LINE.finditer(log):  # noqa: B007  the last one counts
        pass
    if found is None:
        return None
    workers, cpus, gpus, free_cpus, free_gpus, largest, before = found.groups(default="0")
    gang = Gang(int(workers), int(cpus), int(gpus))
    return Room(gang, float(free_cpus), float(free_gpus), int(largest), int(before))


def largest_gang(nodes: Sequence[Mapping[str, float]], per_worker: Mapping[str, float]) -> int:
    """How many workers the nodes' resources hold together."""
    return sum(workers_that_fit(node, per_worker) for node in nodes)


def without_gang(nodes: Sequence[Mapping[str, float]], gang: Gang) -> list[dict[str, float]]:
    """What is left of the nodes' resources beside a gang, or beside as much of it as fits; fullest nodes first."""
    left, workers = [dict(node) for node in nodes], gang.workers
    for node in sorted(left, key=lambda node: -workers_that_fit(node, gang.per_worker)):
        placed = min(workers, workers_that_fit(node, gang.per_worker))
        for name, amount in gang.per_worker.items():
            node[name] = node.get(name, 0.0) - placed * amount
        workers -= placed
    return left


def refuse_impossible_gang(gang: Gang, totals: Sequence[Mapping[str, float]]) -> None:
    """Raise ClusterError where the cluster could not hold the gang even if nothing else ran on it."""
    largest = largest_gang(totals, gang.per_worker)
    if largest >= gang.workers:
        return
    cpus, gpus = (sum(node.get(name, 0.0) for node in totals) for name in ("CPU", "GPU"))
    raise ClusterError(
        f"cluster.workers: the run asks for {gang}, and the cluster has {cpus:g} CPU and {gpus:g} GPU on {len(totals)} "
        f"nodes; the largest gang that would fit there is {largest}. Lower cluster.workers, add nodes, or give --wait "
        f"to start the run once there are enough."
    )
