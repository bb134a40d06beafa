"""One rank that trains a tiny GPT on sequences of several documents, through the trainer's own step and evaluation.

Started by `test_packed_step.py` as `python -m tests.trainer.packed_world JOB.json...`.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from data_shards.dataset import Dataset
from data_shards.evaluation import EvaluationBatch
from data_shards.loader import LoaderState, StepBatch
from tests.trainer.parity_data import GLOBAL_BATCH, MODEL, SEED, make_loader, rate_of, settings
from tests.trainer.steps_world import CPU, run_in_group, run_steps
from tests.trainer.worlds import host
from trainer.batch import plan_batch
from trainer.engine import build_engine
from trainer.engine_state import held_fragments, prepare_optimizer
from trainer.evaluate import evaluate
from trainer.rank import preload

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


def train(case: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    train_settings = settings(case["stage"], **case.get("train", {}))
    plan = plan_batch(GLOBAL_BATCH, train_settings.micro_batch_size, dist.get_world_size())
    model = dataclasses.replace(MODEL, activation_checkpointing=case["checkpointing"])
    engine = build_engine(model, train_settings, plan, case["precision"], SEED, CPU)
    prepare_optimizer(engine)
    loader = make_loader(dataset, dist.get_rank(), plan.world_size, plan.micro_batch)

    def read(state: LoaderState) -> StepBatch:
        return with_starts(loader.read(state, GLOBAL_BATCH))

    normalize = train_settings.loss.normalize
    seen, state = run_steps(engine, plan, read, range(1, 2), rate_of, normalize=normalize)
    moments = first_moments(engine) if case["stage"] == 0 else []
    rest, _ = run_steps(engine, plan, read, range(2, STEPS + 1), rate_of, state, normalize=normalize)
    last = evaluated(read(LoaderState(consumed=FIRST_EVALUATED)))
    held_out = evaluate(engine, lambda: [last], lambda: None)
    engine.destroy()
    return {**{name: seen[name] + rest[name] for name in seen}, "held_out": held_out, "moments": moments}


def work(job: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    return {name: train(case, dataset) for name, case in job["cases"].items()}


def run_rank(job_file: Path, rank: int) -> None:
    run_in_group(job_file, rank, work)


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
