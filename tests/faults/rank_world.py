"""Ranks of real runs without supervisors: `trainer.rank.main` on the spec of a run file, with faults.

Started by `run_files` as `python -m tests.faults.rank_world JOB.json...`. Each rank logs to RANK.log beside its job.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_shards.prepare import prepare
from monitoring.journal import attempt_path
from tests.trainer.worlds import answer, host, run_jobs
from trainer.attempts import take_attempt
from trainer.config import load_run_file
from trainer.errors import BadNumbersError
from trainer.launch import open_launch
from trainer.rank import main, preload


@dataclass(frozen=True)
class Start:
    """One attempt at a run: its file, and the faults of its ranks."""

    file: Path
    faults: Sequence[dict[str, Any]] = ()
    world_size: int = 2


def run_files(folder: Path, starts: Sequence[Start]) -> list[dict[str, Any]]:
    """Run them one after the other; rank 0's `status` and `error` of each, and each rank's `logs`."""
    folder.mkdir()
    jobs = [{"world_size": start.world_size, "spec": _attempt_spec(start)} for start in starts]
    answers = run_jobs("tests.faults.rank_world", folder, jobs)
    for index, start in enumerate(starts):
        logs = [(folder / f"job-{index}.{rank}.log").read_text() for rank in range(start.world_size)]
        answers[index]["logs"] = [log.splitlines() for log in logs]
    return answers


def run_spec(start: Start) -> dict[str, Any]:
    """What every rank of the run is told, once its data is prepared and its folder made."""
    config = load_run_file(start.file)
    dataset = prepare(config.data, dir=config.data_dir, min_val_tokens=config.seq_len + 1)
    spec = open_launch(config, dataset, False).run_spec({})
    return {**spec, "faults": list(start.faults), "threads": 1}


def _attempt_spec(start: Start) -> dict[str, Any]:
    spec = run_spec(start)
    out_dir = Path(spec["config"]["out_dir"])
    attempt = take_attempt(out_dir)
    return {**spec, "attempt": attempt, "journal_path": str(attempt_path(out_dir, attempt))}


def run_rank(job_file: Path, rank: int) -> None:
    job = json.loads(job_file.read_text())
    world_size = job["world_size"]
    logging.basicConfig(level=logging.INFO, format="%(message)s", filename=job_file.with_suffix(f".{rank}.log"))
    store = torch.distributed.FileStore(str(job_file.with_suffix(".store")), world_size)
    place = {"rank": rank, "local_rank": rank, "world_size": world_size, "local_world_size": world_size}
    status, error = 1, ""
    try:
        status = main({**job["spec"], **place, "store": store})
    except BadNumbersError as stopped:
        error = str(stopped)
    if rank == 0:
        answer(job_file, {"status": status, "error": error})


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
