"""Ranks that train a run from where it is for some steps, through the trainer's own entry, and stop with a checkpoint.

Started by `tests/faults/test_checkpoints.py` as `python -m tests.trainer.resume_world JOB.json...`: the jobs are legs
of runs, each with a world size and a ZeRO stage of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch.distributed as dist

from tests.trainer.worlds import answer, host
from trainer.rank import main, preload

STOPPED = 3


class StopAfter:
    """Asks for a stop at the n-th step border."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def __call__(self) -> bool:
        self._left -= 1
        return self._left <= 0


def run_rank(job_file: Path, rank: int) -> None:
    job: dict[str, Any] = json.loads(job_file.read_text())
    store = dist.FileStore(str(job_file.with_suffix(".store")), job["world_size"])
    place = {"rank": rank, "local_rank": rank, "world_size": job["world_size"], "threads": 1}
    with patch("trainer.build.StopRequest", lambda *_, **__: StopAfter(job["steps"])):
        status = main({**job["spec"], **place, "store": store, "device": "cpu"})
    assert status == STOPPED
    if rank == 0:
        answer(job_file, {"status": status})


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
