"""What ranks that train the parity test's data share: a process group, and steps through the trainer's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from data_shards.dataset import Dataset
from data_shards.loader import LoaderState, StepBatch
from tests.trainer.parity_data import SEED, make_dataset
from tests.trainer.worlds import answer
from trainer.batch import BatchPlan
from trainer.optimizer_step import StepWatch, run_step
from trainer.own_time import OwnTime
from trainer.process_group import init_process_group
from trainer.rank import no_beat
from trainer.seeds import make_deterministic

CPU = torch.device("cpu")


def run_in_group(job_file: Path, rank: int, work: Callable[[dict[str, Any], Dataset], dict[str, Any]]) -> None:
    """A rank of a job: its process group and dataset, its work, and rank 0's answer."""
    job: dict[str, Any] = json.loads(job_file.read_text())
    make_deterministic("on", CPU)
    world_size = job["world_size"]
    spec = {"rank": rank, "world_size": world_size, "local_rank": rank, "attempt": 1}
    store = dist.FileStore(str(job_file.with_suffix(".store")), world_size)
    init_process_group({**spec, "store": store}, CPU)
    answers = work(job, make_dataset(job_file.parent / f"data-{world_size}-{rank}"))
    if rank == 0:
        answer(job_file, answers)
    dist.barrier()


def run_steps(
    engine: Any,
    plan: BatchPlan,
    read: Callable[[LoaderState], StepBatch],
    steps: range,
    rate_of: Callable[[int], float],
    state: LoaderState | None = None,
    **options: Any,
) -> tuple[dict[str, list[Any]], LoaderState]:
    """Losses, norms and numbers of labels of the steps, and the place in the data after them. options: `run_step`'s."""
    state = LoaderState() if state is None else state
    watch = StepWatch(no_beat, OwnTime(CPU, counts_forward=engine.zero_optimization_stage() < 3))
    seen: dict[str, list[Any]] = {"losses": [], "norms": [], "labels": []}
    for step in steps:
        batch = read(state)
        known = {"seed": SEED, "step": step, "rank": dist.get_rank(), "watch": watch}
        result = run_step(engine, batch, plan, rate=rate_of(step), **known, **options)
        state = batch.state_after
        for name, value in zip(seen, (result.loss, result.grad_norm, result.labels), strict=True):
            seen[name].append(value)
    return seen, state
