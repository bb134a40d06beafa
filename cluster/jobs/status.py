"""The part of a run's status that its job server knows, and the whole of it where the folder is not seen from here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.folder_status import FolderStatus, folder_status
from cluster.jobs.errands import run_errand
from cluster.jobs.find import find_submitted
from cluster.jobs.job import Job
from cluster.jobs.order import Errand
from cluster.jobs.room import Room, room_from_log
from cluster.jobs.submitted import read_submitted, submitted_here
from monitoring.runs import read_run_folder


@dataclass(frozen=True)
class JobStatus:
    """A run's newest job, where it is, and what it waits for; problem: why nothing is known of it.

    folder: what the run's folder tells, if it was looked into.
    """

    job: Job | None
    address: str
    room: Room | None = None
    problem: str = ""
    folder: FolderStatus | None = None

    def lines(self) -> list[str]:
        """The job for people."""
        if self.job is None:
            return [f"{'job':<11} {self.problem}"]
        owner = self.job.ticket.owner
        lines = [f"{'job':<11} {self.job.id} {self.job.state}, of {owner}, on {self.address}"]
        return [*lines, f"{'waits':<11} {self.room.to_line()}"] if self.room is not None else lines

    def to_dict(self) -> dict[str, Any]:
        """The job as JSON takes it."""
        job = None if self.job is None else {**self.job.to_dict(), "address": self.address}
        waits_for = None if self.room is None else self.room.to_dict()
        return {"job": job, "waits_for": waits_for, "job_problem": self.problem or None}


def job_status(text: str, runs_dir: Path | None, address: str | None, known_run_id: str | None) -> JobStatus:
    """The run's newest job.

    A server that is away hides nothing of a run whose folder is seen from here: then the status says so.

    Args:
        known_run_id: of the run whose folder's status the caller has. If it is not this run's, the folder is looked
            into, by the head if need be.

    Raises:
        ClusterError: nothing is known of the run, here or there.
    """
    try:
        found = find_submitted(text, runs_dir, address)
    except ClusterError as error:
        here = submitted_here(text, runs_dir)
        if here is None:
            raise
        return JobStatus(None, here.address, problem=f"{here.ticket.job_id}, of which nothing is known: {error}")
    if found.job is None:
        problem = f"{found.ticket.job_id}, which {found.server.address} does not know any more"
        return JobStatus(None, found.server.address, problem=problem)
    job, server = found.job, found.server
    if job.is_waiting:
        return JobStatus(job, server.address, room_from_log(server.log(job.id)))
    out_dir = Path(job.ticket.out_dir)
    if known_run_id == job.ticket.run_id or job.status == "PENDING":
        return JobStatus(job, server.address)
    here = read_submitted(out_dir)
    if here is not None and here.ticket.run_id == job.ticket.run_id:
        return JobStatus(job, server.address, folder=_folder_here(out_dir))
    answer = run_errand(server, Errand("cluster.jobs.look_at_run", ("status", str(out_dir))))
    return JobStatus(job, server.address, folder=json.loads(answer))


def _folder_here(out_dir: Path) -> FolderStatus | None:
    """None where the run has not begun to train."""
    return folder_status(read_run_folder(out_dir)) if (out_dir / "run.json").is_file() else None


def look(out_dir: Path) -> str:
    """The folder's status as JSON, null where the run has not begun: what the head answers."""
    return json.dumps(_folder_here(out_dir))
