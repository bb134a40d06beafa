"""The model, the data and the settings of the tests that compare the trainer with a plain PyTorch loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_shards.dataset import Dataset
from data_shards.loader import TrainLoader, train_order
from model.config import GPTConfig
from tests.data_shards.loader_dataset import write_shard
from trainer.schedule import learning_rate
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
