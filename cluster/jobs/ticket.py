"""What a submitted job's metadata says of the run: enough to list it, to find it, to keep it in line, to resume it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

METADATA_KEY = "headrace"
JOB_NAME_KEY = "job_name"  # Ray's own


@dataclass(frozen=True)
class Gang:
    """What a run asks of a cluster: the fewest workers that it starts with, and CPUs and GPUs of each."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: int

    @property
    def per_worker(self) -> dict[str, float]:
        """What Ray reserves for each worker, by its names."""
        gpus = {"GPU": float(self.gpus_per_worker)} if self.gpus_per_worker else {}
        return {"CPU": float(self.cpus_per_worker), **gpus}

    def __str__(self) -> str:
        gpus = f" and {self.gpus_per_worker} GPU" if self.gpus_per_worker else ""
        return f"{self.workers} worker{'' if self.workers == 1 else 's'} of {self.cpus_per_worker} CPU{gpus}"


@dataclass(frozen=True)
class Ticket:
    """A submission. Everyone who reaches the cluster can read it, so no setting of the run is in it."""

    run_id: str
    number: int  # of the run's submissions, from 1
    name: str
    owner: str
    out_dir: str  # absolute, as the cluster sees it
    waits: bool  # in line, until the gang fits
    gang: Gang
    max_driver_restarts: int

    @property
    def job_id(self) -> str:
        """Ray's submission id: no two submissions can share one."""
        return f"{self.run_id}-{self.number}"

    def to_metadata(self) -> dict[str, str]:
        """As Ray keeps it beside the job, with the name that its pages show."""
        return {METADATA_KEY: json.dumps(asdict(self)), JOB_NAME_KEY: self.name}


def ticket_from_dict(values: Mapping[str, Any]) -> Ticket:
    """Back from `dataclasses.asdict`; KeyError or TypeError if it is none."""
    return Ticket(**{**values, "gang": Gang(**values["gang"])})


def ticket_from_metadata(metadata: Mapping[str, str] | None) -> Ticket | None:
    """The ticket in a job's metadata; None for a job that is not one of ours, or of another version."""
    try:
        return ticket_from_dict(json.loads((metadata or {})[METADATA_KEY]))
    except (KeyError, TypeError, ValueError):
        return None
