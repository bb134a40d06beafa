"""The line of runs that wait for room: first come, first served. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cluster.jobs.job import Job
from cluster.jobs.room import Node, Room, largest_gang, without_gang


@dataclass(frozen=True)
class Turn:
    """Whether a run may start now, and the figures."""

    is_now: bool
    room: Room


def turn_of(job_id: str, jobs: Sequence[Job], placed: Collection[str], nodes: Sequence[Node]) -> Turn:
    """Whether it is this waiting job's turn.

    A run that was started and has no gang yet (it prepares its corpus, or is between two gangs) keeps its room. One
    that the cluster could not hold even when idle holds up nobody: it waits for nodes.

    Args:
        placed: Ray's ids of the drivers whose gangs hold their resources.

    Raises:
        KeyError: the job is not in the list.
    """
    own = next((job for job in jobs if job.id == job_id), None)
    if own is None:
        raise KeyError(job_id)
    free = [dict(node.free) for node in nodes]
    for job in sorted(jobs, key=_order):
        if not job.is_over and not job.is_waiting and job.driver_id not in placed:
            free = without_gang(free, job.ticket.gang)
    before = [job for job in jobs if job.is_waiting and _order(job) < _order(own) and _could_ever_fit(job, nodes)]
    gang = own.ticket.gang
    largest = largest_gang(free, gang.per_worker)
    cpus, gpus = (sum(node.get(name, 0.0) for node in free) for name in ("CPU", "GPU"))
    return Turn(not before and largest >= gang.workers, Room(gang, cpus, gpus, largest, len(before)))


def _order(job: Job) -> tuple[float, str]:
    """The server's own time, so that clocks of machines are not compared."""
    return job.submitted, job.id


def _could_ever_fit(job: Job, nodes: Sequence[Node]) -> bool:
    gang = job.ticket.gang
    return largest_gang([node.total for node in nodes], gang.per_worker) >= gang.workers
