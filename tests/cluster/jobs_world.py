"""Jobs and tickets for tests."""

from __future__ import annotations

from typing import Any

from cluster.jobs.job import Job
from cluster.jobs.ticket import Gang, Ticket


def gang(workers: int = 2, gpus: int = 0) -> Gang:
    return Gang(workers, cpus_per_worker=1, gpus_per_worker=gpus)


def ticket(run_id: str = "20260101-a", **fields: Any) -> Ticket:
    values: dict[str, Any] = {
        "number": 1,
        "name": "demo",
        "owner": "ann",
        "out_dir": f"/runs/{run_id}",
        "waits": False,
        "gang": gang(),
        "max_driver_restarts": 3,
    }
    return Ticket(run_id=run_id, **{**values, **fields})


def job(run_id: str = "20260101-a", status: str = "RUNNING", submitted: float = 1.0, **fields: Any) -> Job:
    """A job; fields that a ticket has go to its ticket."""
    of_job = {name: fields.pop(name) for name in ("ended", "exit_status", "driver_id", "message") if name in fields}
    return Job(ticket(run_id, **fields), status, submitted, **of_job)
