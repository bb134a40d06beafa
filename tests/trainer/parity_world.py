"""One rank that trains the same tiny GPT under several ZeRO stages, through the trainer's own step.

Started by `test_parity.py` as `python -m tests.trainer.parity_world JOB.json...`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data_shards.dataset import Dataset
from tests.trainer.parity_data import GLOBAL_BATCH, MODEL, SEED, STEPS, make_loader, rate_of, settings
from tests.trainer.steps_world import CPU, run_in_group, run_steps
from tests.trainer.worlds import host
from trainer.batch import plan_batch
from trainer.engine import build_engine
from trainer.engine_state import prepare_optimizer
from trainer.rank import preload


def train(stage: int, dataset: Dataset) -> dict[str, list[Any]]:
    train_settings = settings(stage)
    plan = plan_batch(GLOBAL_BATCH, train_settings.micro_batch_size, dist.get_world_size())
    engine = build_engine(MODEL, train_settings, plan, "fp32", SEED, CPU)
    prepare_optimizer(engine)
    loader = make_loader(dataset, dist.get_rank(), plan.world_size, plan.micro_batch)
    seen, _ = run_steps(
        engine, plan, partial(loader.read, global_batch_size=GLOBAL_BATCH), range(1, STEPS + 1), rate_of
    )
    engine.destroy()
    return seen


def work(job: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    return {str(stage): train(stage, dataset) for stage in job["stages"]}


def run_rank(job_file: Path, rank: int) -> None:
    run_in_group(job_file, rank, work)


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
