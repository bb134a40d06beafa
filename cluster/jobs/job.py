"""A submitted run as the job server tells of it. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.jobs.ticket import Ticket

FINISHED, FAILED, REFUSED, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130
"""How a driver ends, see cluster.cli."""

_BY_EXIT = {FINISHED: "finished", REFUSED: "refused", STOPPED: "stopped"}


@dataclass(frozen=True)
class Job:
    """A ticket and what Ray knows of it.

    status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED, Ray's words; driver_id: Ray's id of the newest driver that
    has joined the cluster, None as long as none has; submitted, ended: unix seconds.
    """

    ticket: Ticket
    status: str
    submitted: float
    ended: float | None = None
    exit_status: int | None = None
    driver_id: str | None = None
    message: str = ""

    @property
    def id(self) -> str:
        """Ray's submission id."""
        return self.ticket.job_id

    @property
    def is_over(self) -> bool:
        """Whether its entry process has ended."""
        return self.status not in ("PENDING", "RUNNING")

    @property
    def is_waiting(self) -> bool:
        """Whether it stands in line: a driver joins the cluster only when its turn has come."""
        return self.ticket.waits and not self.is_over and self.driver_id is None

    @property
    def state(self) -> str:
        """In our words: pending, waiting, running, finished, stopped, refused, ended (by Ray, at once) or failed."""
        if self.is_waiting:
            return "waiting"
        if not self.is_over:
            return self.status.lower()
        return "ended" if self.status == "STOPPED" else _BY_EXIT.get(self.exit_code, "failed")

    @property
    def exit_code(self) -> int:
        """The exit status of a command that stands for the job, once it is over."""
        if self.exit_status is not None:
            return self.exit_status
        return FINISHED if self.status == "SUCCEEDED" else FAILED

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        ticket, gang = self.ticket, self.ticket.gang
        return {
            "job_id": self.id,
            "run_id": ticket.run_id,
            "name": ticket.name,
            "owner": ticket.owner,
            "state": self.state,
            "out_dir": ticket.out_dir,
            "submitted": self.submitted,
            "ended": self.ended,
            "exit_status": self.exit_code if self.is_over else None,
            "workers": gang.workers,
            "cpus_per_worker": gang.cpus_per_worker,
            "gpus_per_worker": gang.gpus_per_worker,
        }


def newest(jobs: Iterable[Job]) -> Job | None:
    """The one submitted last."""
    return max(jobs, key=lambda job: (job.submitted, job.ticket.number), default=None)


def find_job(text: str, jobs: Sequence[Job]) -> Job | None:
    """The job that RUN means: a job's id, or the newest job of the run with that id, folder or name.

    Raises:
        ClusterError: several runs have that name.
    """
    by_id = [job for job in jobs if job.id == text] or [job for job in jobs if job.ticket.run_id == text]
    found = by_id or [job for job in jobs if Path(job.ticket.out_dir) == Path(text).absolute()]
    if found:
        return newest(found)
    found = [job for job in jobs if job.ticket.name == text]
    runs = {job.ticket.run_id for job in found}
    if len(runs) > 1:
        alive = [job for job in found if not job.is_over]
        if len(alive) == 1:
            return alive[0]
        raise ClusterError(
            f"RUN {text!r}: the name must be that of one run, found {', '.join(sorted(runs))}; give the id"
        )
    return newest(found)


def job_in_folder(out_dir: str, jobs: Iterable[Job]) -> Job | None:
    """The job that is not over and whose run has that folder."""
    return newest(job for job in jobs if job.ticket.out_dir == out_dir and not job.is_over)


def refuse_another_owner(job: Job, owner: str, forced: bool) -> None:
    """Raise ClusterError where the job is someone else's and no --force was given."""
    if job.ticket.owner != owner and not forced:
        raise ClusterError(
            f"{job.id}: the run is {job.ticket.owner}'s, and you are {owner} (HEADRACE_OWNER sets another name). "
            f"Ask them, or give --force."
        )


def jobs_table(jobs: Sequence[Job], waits_for: dict[str, str]) -> str:
    """Jobs in lines, oldest first, with what those in line wait for, by job id."""
    rows = [("JOB", "RUN", "STATE", "OWNER", "SUBMITTED (UTC)", "WORKERS")]
    for job in sorted(jobs, key=lambda job: job.submitted):
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(job.submitted))
        ticket = job.ticket
        rows.append((job.id, ticket.name, job.state, ticket.owner, when, str(ticket.gang.workers)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        note = f"  {waits_for[row[0]]}" if row[0] in waits_for else ""
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + note)
    return "\n".join(lines)
