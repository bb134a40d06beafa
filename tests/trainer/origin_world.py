"""Ranks that begin a run from another's weights, through the trainer's own entry, and stop after a step.

Started by `test_init_from.py` as `python -m tests.trainer.origin_world JOB.json...`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch.distributed as dist

from model.config import GPTConfig
from model.gpt import GPT
from tests.trainer.resume_world import STOPPED, StopAfter
from tests.trainer.worlds import answer, host
from trainer.rank import main, preload


def gpt_with_frozen_embedding(config: GPTConfig) -> GPT:
    model = GPT(config)
    model.wte.weight.requires_grad_(False)
    return model


def run_rank(job_file: Path, rank: int) -> None:
    job: dict[str, Any] = json.loads(job_file.read_text())
    store = dist.FileStore(str(job_file.with_suffix(".store")), job["world_size"])
    place = {"rank": rank, "local_rank": rank, "world_size": job["world_size"], "threads": 1}
    gpt = gpt_with_frozen_embedding if job["frozen"] else GPT
    with patch("trainer.build.StopRequest", lambda *_, **__: StopAfter(1)), patch("trainer.engine.build_model", gpt):
        status = main({**job["spec"], **place, "store": store, "device": "cpu"})
    assert status == STOPPED
    if rank == 0:
        if "remove" in job:
            shutil.rmtree(job["remove"])
        answer(job_file, {"status": status})


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
