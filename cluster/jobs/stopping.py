"""Stopping a submitted run: a mark in its folder, and the wait for its save."""

from __future__ import annotations

import time
from pathlib import Path

from cluster.jobs.errands import run_errand
from cluster.jobs.job import Job
from cluster.jobs.order import Errand
from cluster.jobs.server import JobServer
from cluster.jobs.submitted import read_submitted
from trainer.stop import ask_to_stop, is_stop_asked

ASKED, ASKED_BEFORE, NOT_BEGUN, ELSEWHERE = "asked", "asked before", "not begun", "elsewhere"
"""What came of leaving the mark. Not begun: the job's entry process has not come so far as to look for one."""

ERRAND_AGAIN_SECONDS = 30.0
LOOK_SECONDS = 1.0


def leave_mark(out_dir: Path, job_id: str) -> str:
    """Ask the run that this job drives to save and end; one of the words above."""
    if not out_dir.is_dir():
        return ELSEWHERE
    submitted = read_submitted(out_dir)
    if submitted is None or submitted.ticket.job_id != job_id:
        return NOT_BEGUN
    if is_stop_asked(out_dir):
        return ASKED_BEFORE
    ask_to_stop(out_dir)
    return ASKED


def ask(server: JobServer, job: Job) -> str:
    """Leave the mark from here, or, where the folder is not seen from here, have the head do it."""
    out_dir = Path(job.ticket.out_dir)
    word = leave_mark(out_dir, job.id)
    if word in (ASKED, ASKED_BEFORE):
        return word
    return run_errand(server, Errand("cluster.jobs.look_at_run", ("stop", str(out_dir), job.id))).strip()


def wait_for_end(server: JobServer, job: Job, seconds: float) -> Job:
    """Wait for a job that was asked to stop; as it is then.

    A run that only begins to train takes away the marks that it finds: the mark is left again where it is gone.
    """
    out_dir = Path(job.ticket.out_dir)
    is_here = leave_mark(out_dir, job.id) in (ASKED, ASKED_BEFORE)
    deadline = time.monotonic() + seconds
    again = time.monotonic() + ERRAND_AGAIN_SECONDS
    while time.monotonic() < deadline and server.wait(job.id, LOOK_SECONDS) is None:
        if is_here:
            leave_mark(out_dir, job.id)
        elif time.monotonic() > again:
            ask(server, job)
            again = time.monotonic() + ERRAND_AGAIN_SECONDS
    return server.job(job.id)
