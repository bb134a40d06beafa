"""One rank that trains a tiny classifier or encoder-decoder, through the trainer's own step and evaluation.

Started by `test_variants.py` as `python -m tests.trainer.variants_world JOB.json...`.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from data_shards.dataset import Dataset
from data_shards.evaluation import EvaluationBatch
from data_shards.loader import LoaderState, StepBatch, TrainLoader, train_order
from model.config import GPTConfig
from model.encoder_decoder import continue_greedily
from tests.trainer.parity_data import GLOBAL_BATCH, MODEL, SEED, SEQ_LEN, rate_of, settings
from tests.trainer.steps_world import CPU, run_in_group, run_steps
from tests.trainer.worlds import host
from trainer.batch import plan_batch
from trainer.classification import evaluate_classes
from trainer.engine import build_engine
from trainer.engine_state import prepare_optimizer
from trainer.evaluate import evaluate
from trainer.rank import preload

STEPS = 6
FIRST_EVALUATED = 1000
CLASSES = 3
CLASS_WEIGHTS = (0.5, 1.0, 3.0)
EPSILON = 0.5
PROMPT_IDS = [5, 9, 4, 7]
MODELS: dict[str, GPTConfig] = {
    "completions": MODEL,
    "classes": dataclasses.replace(MODEL, n_classes=CLASSES),
    "drawn cuts": dataclasses.replace(MODEL, arch="encoder_decoder", n_encoder_layer=1),
    "prompts": dataclasses.replace(MODEL, arch="encoder_decoder"),
}
VARIANTS = (*MODELS, "completions, moved", "classes, moved", "prompts, moved")
"""Those that are moved also count with their embeddings moved along the gradient."""


def model_of(variant: str) -> str:
    """The model of a variant, by its name."""
    return variant.removesuffix(", moved")


class VariantLoader:
    """The parity test's sequences as what the variant is trained on: the batches of one rank."""

    def __init__(self, variant: str, dataset: Dataset, rank: int, world: int, micro_batch: int) -> None:
        order = train_order(dataset, seq_len=SEQ_LEN, seed=SEED, streams=6, window=2, weights=None)
        sizes = {"seq_len": SEQ_LEN, "rank": rank, "world": world, "micro_batch": micro_batch}
        self._loader = TrainLoader(dataset, order, **sizes, cut_seed=SEED if variant == "drawn cuts" else None)
        self._variant = model_of(variant)

    def read(self, state: LoaderState) -> StepBatch:
        batch = self._loader.read(state, GLOBAL_BATCH)
        return batch if self._variant == "drawn cuts" else as_records(batch, self._variant)


def as_records(batch: StepBatch, variant: str) -> StepBatch:
    """Records that end at each multiple of 5, not alike from row to row. What counts is, of a classification, that last
    token, a class; of prompts, each record's tokens from its first multiple of 3 on, which are its completion."""
    is_last = batch.tokens % 5 == 0
    starts = tuple(
        np.flatnonzero(row[:-1]) + 1 if real else np.empty(0, np.int64)
        for row, real in zip(is_last, batch.real, strict=True)
    )
    batch = dataclasses.replace(batch, document_starts=starts)
    if variant == "classes":
        tokens = np.where(is_last, batch.tokens // 5 % CLASSES, batch.tokens)
        return dataclasses.replace(batch, tokens=tokens, loss_mask=is_last)
    batch = with_prompts(batch, starts)
    return batch if variant == "prompts" else dataclasses.replace(batch, decoder_starts=None)


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
    """Held-out loss, a classifier's matrix, and what an encoder-decoder goes on with."""
    if variant == "classes":
        result = evaluate_classes(engine, lambda: [batch], CLASSES, lambda: None)
        return {"held_out": result.loss, "matrix": result.matrix.tolist()}
    found: dict[str, Any] = {"held_out": evaluate(engine, lambda: [batch], lambda: None)}
    if variant != "completions":
        found["text"] = continue_greedily(engine.module, PROMPT_IDS, 8, eot_id=0)
    return found


def train(variant: str, stage: int, dataset: Dataset) -> dict[str, Any]:
    model = model_of(variant)
    train_settings = settings(stage, adversarial=None if variant == model else {"epsilon": EPSILON})
    plan = plan_batch(GLOBAL_BATCH, train_settings.micro_batch_size, dist.get_world_size())
    engine = build_engine(MODELS[model], train_settings, plan, "fp32", SEED, CPU)
    if model == "classes":
        engine.module.class_weights = torch.tensor(CLASS_WEIGHTS)
    prepare_optimizer(engine)
    loader = VariantLoader(variant, dataset, dist.get_rank(), plan.world_size, plan.micro_batch)
    epsilon = None if variant == model else EPSILON
    seen, _ = run_steps(engine, plan, loader.read, range(1, STEPS + 1), rate_of, epsilon=epsilon)
    found = {**seen, **judged(engine, model, evaluated(loader.read(LoaderState(consumed=FIRST_EVALUATED))))}
    engine.destroy()
    return found


def work(job: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    return {f"{variant}, stage {stage}": train(variant, stage, dataset) for variant, stage in job["cases"]}


def run_rank(job_file: Path, rank: int) -> None:
    run_in_group(job_file, rank, work)


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
