"""The work that all arms do: one dataset of real text, one order of its rows, one set of weights, one set of rates."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness.environment import ROOT, environment
from benchmarks.train.plan import SEED, Plan
from data_shards.dataset import Dataset
from data_shards.loader import LoaderState, TrainLoader
from model.config import GPTConfig
from model.encoder_decoder import build_model
from model.flops import model_flops_per_token, parameter_count
from model.settings import resolve
from trainer.batch import plan_batch
from trainer.config import RunConfig, load_run_file
from trainer.length import make_order
from trainer.schedule import learning_rate
from trainer.seeds import derive_seed
from trainer.settings import TrainSettings
from trainer.zero import deepspeed_config

logger = logging.getLogger(__name__)

CORPUS = ROOT / "recipes/corpus"
STAMPS = ROOT / "benchmarks/train/stamps.py"
PREPARE_SECONDS = 600.0
LR = 3.0e-5
"""So small that differences in rounding do not grow over the steps that are compared."""


@dataclass(frozen=True)
class Work:
    """What arms are told. tokens: a file of uint16 [steps, sequences, T + 1]; weights: a file of torch's."""

    plan: Plan
    config: RunConfig
    model: GPTConfig
    tokens: Path
    weights: Path
    rates: tuple[float, ...]

    @property
    def sequences(self) -> int:
        """Of a step, over all ranks."""
        return self.config.train.global_batch_size

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.rates)

    @property
    def tokens_per_step(self) -> int:
        """Over all ranks."""
        return self.config.tokens_per_step

    @property
    def flops_per_token(self) -> float:
        """Of the model, forward and backward: 6 N + 12 L C T."""
        return model_flops_per_token(self.model, self.plan.seq_len)

    def facts(self) -> dict[str, Any]:
        """What the report says of it."""
        return {
            "parameters": parameter_count(self.model),
            "flops_per_token": self.flops_per_token,
            "tokens_per_step": self.tokens_per_step,
            "sequences": self.sequences,
            "steps": len(self.rates),
            "warm_steps": self.plan.warm_steps,
            "model": {name: getattr(self.model, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size")},
            "seq_len": self.plan.seq_len,
        }

    def task(self) -> dict[str, Any]:
        """What a peer's script is asked, but for where it writes."""
        optimizer = self.config.train.optimizer
        return {
            "model": self.model.to_dict(),
            "weights": str(self.weights),
            "tokens": str(self.tokens),
            "rates": list(self.rates),
            "optimizer": {"betas": optimizer.betas, "eps": optimizer.eps, "weight_decay": optimizer.weight_decay},
            "grad_clip": self.config.train.grad_clip,
        }

    def deepspeed(self, stage: int, ranks: int) -> dict[str, Any]:
        """The configuration that Headrace gives DeepSpeed."""
        document = self.config.train.model_dump(mode="json")
        train = TrainSettings.model_validate({**document, "zero": {"stage": stage}})
        batch = plan_batch(self.sequences, "auto", ranks)
        return deepspeed_config(train, batch, "fp32", parameter_count(self.model))


def run_document(plan: Plan, sequences: int, steps: int, out_dir: Path) -> dict[str, Any]:
    """The run file of Headrace's arms. Evaluation and checkpoints come after the last step, as nothing is timed."""
    return {
        "name": "bench-train",
        "out_dir": str(out_dir),
        "seed": SEED,
        "data": {
            "dir": str(plan.folder / f"dataset-{plan.vocab_size}-{plan.seq_len}"),
            "sources": [str(CORPUS / "shakespeare/*.jsonl"), str(CORPUS / "sanguo/*.txt")],
            "tokenizer": {"train": "bpe", "vocab_size": plan.vocab_size},
        },
        "model": plan.shape,
        "train": {
            "max_steps": steps,
            "global_batch_size": sequences,
            "lr": LR,
            "schedule": {"name": "cosine", "warmup_ratio": 0.1},
            "precision": "fp32",
        },
        "eval": {"interval": 1_000_000, "max_tokens": 4 * plan.seq_len},
        "cluster": {"workers": 1, "cpus_per_worker": 1},
        "monitoring": {"tracking_uri": f"sqlite:///{plan.folder / 'mlflow.db'}"},
        "callbacks": [f"{STAMPS}:on_event"],
    }


def make_work(plan: Plan, sequences: int, steps: int) -> Work:
    """Prepare the dataset where that was not done, and write what the peers read. Raises: RuntimeError if it fails."""
    folder = plan.folder / f"work-{sequences}-{steps}"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "run.yaml"
    file.write_text(json.dumps(run_document(plan, sequences, steps, folder / "run")))
    _prepare(file)
    config = load_run_file(file)
    dataset = Dataset.open(Path(config.data_dir))
    model = resolve(config.model, dataset.vocab_size, "none")
    np.save(folder / "tokens.npy", _rows(config, dataset, steps))
    torch.manual_seed(derive_seed(SEED, "weights"))
    torch.save(build_model(model).state_dict(), folder / "weights.pt")
    total = steps * config.tokens_per_step
    rates = [learning_rate(config.train, (step + 1) * config.tokens_per_step, total) for step in range(steps)]
    return Work(plan, config, model, folder / "tokens.npy", folder / "weights.pt", tuple(rates))


def _rows(config: RunConfig, dataset: Dataset, steps: int) -> np.ndarray:
    """The rows of all steps in Headrace's order, uint16 [steps, sequences, T + 1]."""
    order = make_order(config, dataset)
    size = config.train.global_batch_size
    loader = TrainLoader(dataset, order, seq_len=config.seq_len, rank=0, world=1, micro_batch=size)
    state, rows = LoaderState(), []
    for _ in range(steps):
        batch = loader.read(state, size)
        state = batch.state_after
        rows.append(batch.tokens.astype(np.uint16))
    return np.stack(rows)


def _prepare(file: Path) -> None:
    command = [sys.executable, "-m", "cluster.cli", "prepare", str(file)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PREPARE_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"headrace prepare: exit status {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
