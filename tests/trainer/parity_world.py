"""One rank that trains the same tiny GPT under several ZeRO stages, through the trainer's own step.

Started by `test_parity.py` as `python -m tests.trainer.parity_world JOB.json...`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_shards.dataset import Dataset
from data_shards.loader import LoaderState, TrainLoader, train_order
from model.config import GPTConfig
from tests.data_shards.loader_dataset import write_shard
from tests.trainer.worlds import answer, host
from trainer.batch import plan_batch
from trainer.engine import build_engine
from trainer.engine_state import prepare_optimizer
from trainer.optimizer_step import StepWatch, run_step
from trainer.own_time import OwnTime
from trainer.process_group import init_process_group
from trainer.rank import no_beat, preload
from trainer.schedule import learning_rate
from trainer.seeds import make_deterministic
from trainer.settings import TrainSettings

SEQ_LEN = 16
GLOBAL_BATCH = 8
STEPS = 50
SEED = 7
VOCABULARY = 89
MODEL = GPTConfig(vocab_size=128, real_vocab_size=VOCABULARY, n_layer=2, n_head=2, n_embd=32, max_seq_len=SEQ_LEN)


def settings(stage: int, **changes: Any) -> TrainSettings:
    """Accumulation over micro-batches of 2, clipping that bites, warm-up and cosine decay."""
    return TrainSettings.model_validate(
        {
            "max_steps": STEPS,
            "global_batch_size": GLOBAL_BATCH,
            "micro_batch_size": 2,
            "lr": 3e-3,
            "grad_clip": 0.5,
            "schedule": {"warmup_ratio": 0.1, "min_lr": 1e-4},
            "zero": {"stage": stage},
            **changes,
        }
    )


def make_dataset(folder: Path) -> Dataset:
    """Four uneven shards of a text that can be learnt: each token follows from the one before."""
    folder.mkdir()
    shards = [
        write_shard(folder, "train", "a", number, (np.arange(tokens) * (number + 1)) % VOCABULARY, 64, "uint16")
        for number, tokens in enumerate([900, 400, 777, 650])
    ]
    return Dataset(
        dir=folder,
        fingerprint="parity",
        tokenizer_fingerprint="t",
        corpus_fingerprint="c",
        vocab_size=VOCABULARY,
        eot_id=0,
        dtype="uint16",
        shards=tuple(shards),
    )


def make_loader(dataset: Dataset, rank: int, world_size: int, micro_batch: int) -> TrainLoader:
    order = train_order(dataset, seq_len=SEQ_LEN, seed=SEED, streams=6, window=2, weights=None)
    return TrainLoader(dataset, order, seq_len=SEQ_LEN, rank=rank, world=world_size, micro_batch=micro_batch)


def rate_of(step: int) -> float:
    tokens_per_step = GLOBAL_BATCH * SEQ_LEN
    return learning_rate(settings(0), step * tokens_per_step, STEPS * tokens_per_step)


def train(stage: int, dataset: Dataset, rank: int, world_size: int) -> dict[str, list[float]]:
    device = torch.device("cpu")
    train_settings = settings(stage)
    plan = plan_batch(GLOBAL_BATCH, train_settings.micro_batch_size, world_size)
    engine = build_engine(MODEL, train_settings, plan, "fp32", SEED, device)
    prepare_optimizer(engine)
    loader = make_loader(dataset, rank, world_size, plan.micro_batch)
    state = LoaderState()
    watch = StepWatch(no_beat, OwnTime(device, counts_forward=stage < 3))
    losses, norms = [], []
    for step in range(1, STEPS + 1):
        batch = loader.read(state, GLOBAL_BATCH)
        result = run_step(engine, batch, plan, rate=rate_of(step), seed=SEED, step=step, rank=rank, watch=watch)
        state = batch.state_after
        losses.append(result.loss)
        norms.append(result.grad_norm)
    engine.destroy()
    return {"losses": losses, "norms": norms}


def run_rank(job_file: Path, rank: int) -> None:
    job: dict[str, Any] = json.loads(job_file.read_text())
    device = torch.device("cpu")
    make_deterministic("on", device)
    world_size = job["world_size"]
    spec = {"rank": rank, "world_size": world_size, "local_rank": rank, "attempt": 1}
    store = torch.distributed.FileStore(str(job_file.with_suffix(".store")), world_size)
    init_process_group({**spec, "store": store}, device)
    dataset = make_dataset(job_file.parent / f"data-{world_size}-{rank}")
    answers = {str(stage): train(stage, dataset, rank, world_size) for stage in job["stages"]}
    if rank == 0:
        answer(job_file, answers)
    torch.distributed.barrier()


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
