"""Which submitted run a command is about, and which job server knows of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.jobs.job import Job, find_job
from cluster.jobs.server import JobServer
from cluster.jobs.submitted import ADDRESS_VARIABLE, Submitted, submitted_here
from cluster.jobs.ticket import Ticket


@dataclass(frozen=True)
class Found:
    """A run that was submitted. job: None where the server knows of none, as a new cluster's does not."""

    server: JobServer
    address: str
    ticket: Ticket
    job: Job | None


def server_address(given: str | None, submitted: Submitted | None) -> str:
    """The job server's address: as given, from the environment, or where the run was submitted to.

    Raises:
        ClusterError: there is none.
    """
    address = given or os.environ.get(ADDRESS_VARIABLE) or (submitted.address if submitted is not None else None)
    if not address:
        raise ClusterError(
            f"--address: must be the URL of a Ray cluster's job server, such as http://HOST:8265, and none is given. "
            f"Give one, or set {ADDRESS_VARIABLE}."
        )
    return address


def find_submitted(text: str, runs_dir: Path | None, address: str | None) -> Found:
    """The run that `text` means: a name, folder, run id or job id.

    Raises:
        ClusterError: neither a folder that is seen from here nor the server knows of it, or several runs have the name.
    """
    submitted = submitted_here(text, runs_dir)
    where = server_address(address, submitted)
    server = JobServer(where)
    jobs = server.jobs()
    job = find_job(text, jobs)
    if job is None and submitted is not None:
        job = find_job(submitted.ticket.job_id, jobs)
    if job is not None:
        return Found(server, where, job.ticket, job)
    if submitted is not None:
        return Found(server, where, submitted.ticket, None)
    known = ", ".join(job.ticket.name for job in jobs[-10:]) or "none"
    raise ClusterError(
        f"RUN {text!r}: must be the name, folder or id of a submitted run; {server.address} knows of none such "
        f"(known there: {known}). A run that was not submitted goes on by `headrace run`."
    )


def find_known_job(text: str, runs_dir: Path | None, address: str | None) -> tuple[JobServer, Job]:
    """The newest job of a run, which its server must know."""
    found = find_submitted(text, runs_dir, address)
    if found.job is None:
        raise ClusterError(
            f"{found.ticket.job_id}: {found.server.address} does not know this job any more. The logs of its ranks are "
            f"in {found.ticket.out_dir}/logs; `headrace resume` submits the run again."
        )
    return found.server, found.job
