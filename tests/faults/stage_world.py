"""Attempts at a run with stages, some of which a fault kills; each rank's memory for snapshots outlives it.

Started by `test_stages.py` as `python -m tests.faults.stage_world JOB.json...`. A job with `dies` must fail.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch

from monitoring.journal import attempt_path
from tests.trainer.worlds import answer, run_job
from trainer.attempts import take_attempt
from trainer.rank import main, preload


class Damage:
    """A heartbeat that cuts a file short before a step."""

    def __init__(self, path: str, step: int) -> None:
        self._path, self._step = Path(path), step

    def beat(self, step: int, phase: str) -> None:
        if (step, phase) == (self._step, "data"):
            self._path.write_bytes(self._path.read_bytes()[:100])


def run_rank(job_file: Path, rank: int) -> None:
    job = json.loads(job_file.read_text())
    world_size = job["world_size"]
    memory = Path(job["spec"]["config"]["out_dir"]) / f"memory-{rank}"
    store = torch.distributed.FileStore(str(job_file.with_suffix(".store")), world_size)
    place = {"rank": rank, "local_rank": rank, "world_size": world_size, "local_world_size": world_size}
    fd = os.open(memory, os.O_RDWR | os.O_CREAT)
    watch = {"heartbeat": Damage(**job["damage"])} if "damage" in job and rank == 0 else {}
    status = main({**job["spec"], **place, **watch, "store": store, "snapshot_fd": fd})
    if rank == 0:
        answer(job_file, {"status": status})
    sys.exit(status)


def _begin_attempt(job_file: Path) -> dict[str, Any]:
    """The job, as an attempt that begins now: none that begins later may be there yet."""
    job: dict[str, Any] = json.loads(job_file.read_text())
    out_dir = Path(job["spec"]["config"]["out_dir"])
    attempt = take_attempt(out_dir)
    job["spec"] |= {"attempt": attempt, "journal_path": str(attempt_path(out_dir, attempt))}
    job_file.write_text(json.dumps(job))
    return job


def run_all() -> int:
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    gc.freeze()
    for job_file in map(Path, sys.argv[1:]):
        dies = _begin_attempt(job_file)["dies"]
        if dies:
            answer(job_file, {"status": None})
        if run_job(job_file, run_rank) == dies:
            return 1
    return 0


if __name__ == "__main__":
    preload()
    sys.exit(run_all())
