"""One rank that trains a tiny GPT on sequences of several documents, through the trainer's own step and evaluation.

Started by `test_packed_step.py` as `python -m tests.trainer.packed_world JOB.json...`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_shards.dataset import Dataset
from data_shards.evaluation import EvaluationBatch
from data_shards.loader import LoaderState, StepBatch
from tests.trainer.parity_world import GLOBAL_BATCH, MODEL, SEED, make_dataset, make_loader, rate_of, settings
from tests.trainer.worlds import answer, host
from trainer.batch import plan_batch
from trainer.engine import build_engine
from trainer.engine_state import held_fragments, prepare_optimizer
from trainer.evaluate import evaluate
from trainer.optimizer_step import StepWatch, run_step
from trainer.own_time import OwnTime
from trainer.process_group import init_process_group
from trainer.rank import no_beat, preload
from trainer.seeds import make_deterministic

STEPS = 8
FIRST_EVALUATED = 1000


def with_starts(batch: StepBatch) -> StepBatch:
    """The batch with documents that end with each multiple of 5: short ones, and not alike from rank to rank."""
    starts = tuple(
        np.flatnonzero(row[:-1] % 5 == 0) + 1 if real else np.empty(0, np.int64)
        for row, real in zip(batch.tokens, batch.real, strict=True)
    )
    return dataclasses.replace(batch, document_starts=starts)


def evaluated(batch: StepBatch) -> EvaluationBatch:
    return EvaluationBatch(batch.tokens, batch.real, batch.document_starts)


def first_moments(engine: Any) -> list[float]:
    """All first moments, by the parameters' names: after one step the gradient, but for a factor."""
    fragments = sorted(held_fragments(engine), key=lambda fragment: fragment.name)
    return [value for fragment in fragments for value in fragment.exp_avg.tolist()]


def train(case: dict[str, Any], dataset: Dataset, rank: int, world_size: int) -> dict[str, Any]:
    device = torch.device("cpu")
    train_settings = settings(case["stage"], **case.get("train", {}))
    plan = plan_batch(GLOBAL_BATCH, train_settings.micro_batch_size, world_size)
    model = dataclasses.replace(MODEL, activation_checkpointing=case["checkpointing"])
    engine = build_engine(model, train_settings, plan, case["precision"], SEED, device)
    prepare_optimizer(engine)
    loader = make_loader(dataset, rank, world_size, plan.micro_batch)
    state = LoaderState()
    watch = StepWatch(no_beat, OwnTime(device, counts_forward=True))
    losses, norms, labels = [], [], []
    for step in range(1, STEPS + 1):
        batch = with_starts(loader.read(state, GLOBAL_BATCH))
        result = run_step(
            engine,
            batch,
            plan,
            rate=rate_of(step),
            seed=SEED,
            step=step,
            rank=rank,
            watch=watch,
            normalize=train_settings.loss.normalize,
        )
        state = batch.state_after
        losses.append(result.loss)
        norms.append(result.grad_norm)
        labels.append(result.labels)
        if step == 1:
            moments = first_moments(engine) if case["stage"] == 0 else []
    last = evaluated(with_starts(loader.read(LoaderState(consumed=FIRST_EVALUATED), GLOBAL_BATCH)))
    held_out = evaluate(engine, lambda: [last], lambda: None)
    engine.destroy()
    return {"losses": losses, "norms": norms, "labels": labels, "held_out": held_out, "moments": moments}


def run_rank(job_file: Path, rank: int) -> None:
    job: dict[str, Any] = json.loads(job_file.read_text())
    device = torch.device("cpu")
    make_deterministic("on", device)
    world_size = job["world_size"]
    spec = {"rank": rank, "world_size": world_size, "local_rank": rank, "attempt": 1}
    store = torch.distributed.FileStore(str(job_file.with_suffix(".store")), world_size)
    init_process_group({**spec, "store": store}, device)
    dataset = make_dataset(job_file.parent / f"data-{world_size}-{rank}")
    answers = {name: train(case, dataset, rank, world_size) for name, case in job["cases"].items()}
    if rank == 0:
        answer(job_file, answers)
    torch.distributed.barrier()


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
