"""One rank that trains a tiny classifier or encoder-decoder, through the trainer's own step and evaluation.

Started by `test_variants.py` as `python -m tests.trainer.variants_world JOB.json...`.
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
from data_shards.loader import LoaderState, StepBatch, TrainLoader, train_order
from model.config import GPTConfig
from tests.trainer.parity_world import GLOBAL_BATCH, MODEL, SEED, SEQ_LEN, make_dataset, rate_of, settings
from tests.trainer.worlds import answer, host
from trainer.batch import plan_batch
from trainer.classification import evaluate_classes
from trainer.engine import build_engine
from trainer.engine_state import prepare_optimizer
from trainer.evaluate import evaluate
from trainer.optimizer_step import StepWatch, run_step
from trainer.own_time import OwnTime
from trainer.process_group import init_process_group
from trainer.rank import no_beat, preload
from trainer.seeds import make_deterministic

STEPS = 6
FIRST_EVALUATED = 1000
CLASSES = 3
CLASS_WEIGHTS = (0.5, 1.0, 3.0)
MODELS: dict[str, GPTConfig] = {
    "classes": dataclasses.replace(MODEL, n_classes=CLASSES),
    "drawn cuts": dataclasses.replace(MODEL, arch="encoder_decoder", n_encoder_layer=1),
    "prompts": dataclasses.replace(MODEL, arch="encoder_decoder"),
}


class VariantLoader:
    """The parity test's sequences as what the variant is trained on: the batches of one rank."""

    def __init__(self, variant: str, dataset: Dataset, rank: int, world: int, micro_batch: int) -> None:
        order = train_order(dataset, seq_len=SEQ_LEN, seed=SEED, streams=6, window=2, weights=None)
        sizes = {"seq_len": SEQ_LEN, "rank": rank, "world": world, "micro_batch": micro_batch}
        self._loader = TrainLoader(dataset, order, **sizes, cut_seed=SEED if variant == "drawn cuts" else None)
        self._variant = variant

    def read(self, state: LoaderState) -> StepBatch:
        batch = self._loader.read(state, GLOBAL_BATCH)
        return batch if self._variant == "drawn cuts" else as_records(batch, self._variant)


def as_records(batch: StepBatch, variant: str) -> StepBatch:
    """Records that end at each multiple of 5, not alike from row to row. What counts is, of a classification, that last
    token, a class; of prompts, each record's tokens from its first multiple of 3 on, which the decoder is to say."""
    is_last = batch.tokens % 5 == 0
    starts = tuple(
        np.flatnonzero(row[:-1]) + 1 if real else np.empty(0, np.int64)
        for row, real in zip(is_last, batch.real, strict=True)
    )
    batch = dataclasses.replace(batch, document_starts=starts)
    if variant == "classes":
        tokens = np.where(is_last, batch.tokens // 5 % CLASSES, batch.tokens)
        return dataclasses.replace(batch, tokens=tokens, loss_mask=is_last)
    return with_prompts(batch, starts)


def with_prompts(batch: StepBatch, starts: tuple[np.ndarray, ...]) -> StepBatch:
    """Loss masks and cuts, written out token by token."""
    mask, cuts = np.zeros(batch.tokens.shape, np.bool_), np.zeros((len(batch.tokens), SEQ_LEN), np.int64)
    for row, borders in enumerate(starts):
        for first, end in zip([0, *borders], [*borders, SEQ_LEN + 1], strict=True):
            own = range(first + 1, end)
            completion = next((place for place in own if batch.tokens[row, place] % 3 == 0), end)
            mask[row, completion:end] = True
            cuts[row, first:end] = completion - 1 if completion < end else first
    return dataclasses.replace(batch, loss_mask=mask, decoder_starts=cuts)


def evaluated(batch: StepBatch) -> EvaluationBatch:
    return EvaluationBatch(batch.tokens, batch.real, batch.document_starts, batch.loss_mask, batch.decoder_starts)


def judged(engine: Any, variant: str, batch: EvaluationBatch) -> dict[str, Any]:
    """Held-out loss, and a classifier's matrix."""
    if variant != "classes":
        return {"held_out": evaluate(engine, lambda: [batch], lambda: None)}
    result = evaluate_classes(engine, lambda: [batch], CLASSES, lambda: None)
    return {"held_out": result.loss, "matrix": result.matrix.tolist()}


def train(variant: str, stage: int, dataset: Dataset, rank: int, world_size: int) -> dict[str, Any]:
    device = torch.device("cpu")
    train_settings = settings(stage)
    plan = plan_batch(GLOBAL_BATCH, train_settings.micro_batch_size, world_size)
    engine = build_engine(MODELS[variant], train_settings, plan, "fp32", SEED, device)
    if variant == "classes":
        engine.module.class_weights = torch.tensor(CLASS_WEIGHTS)
    prepare_optimizer(engine)
    loader = VariantLoader(variant, dataset, rank, world_size, plan.micro_batch)
    state = LoaderState()
    watch = StepWatch(no_beat, OwnTime(device, counts_forward=True))
    losses, norms, labels = [], [], []
    for step in range(1, STEPS + 1):
        batch = loader.read(state)
        result = run_step(engine, batch, plan, rate=rate_of(step), seed=SEED, step=step, rank=rank, watch=watch)
        state = batch.state_after
        losses.append(result.loss)
        norms.append(result.grad_norm)
        labels.append(result.labels)
    last = evaluated(loader.read(LoaderState(consumed=FIRST_EVALUATED)))
    found = {"losses": losses, "norms": norms, "labels": labels, **judged(engine, variant, last)}
    engine.destroy()
    return found


def run_rank(job_file: Path, rank: int) -> None:
    job: dict[str, Any] = json.loads(job_file.read_text())
    device = torch.device("cpu")
    make_deterministic("on", device)
    world_size = job["world_size"]
    spec = {"rank": rank, "world_size": world_size, "local_rank": rank, "attempt": 1}
    store = torch.distributed.FileStore(str(job_file.with_suffix(".store")), world_size)
    init_process_group({**spec, "store": store}, device)
    dataset = make_dataset(job_file.parent / f"data-{world_size}-{rank}")
    answers = {
        f"{variant}, stage {stage}": train(variant, stage, dataset, rank, world_size) for variant, stage in job["cases"]
    }
    if rank == 0:
        answer(job_file, answers)
    torch.distributed.barrier()


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
