"""Runs to start from: a tiny dataset, and checkpoints of known weights that no rank trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_shards.dataset import Dataset
from data_shards.prepare import prepare
from model.config import GPTConfig
from model.gpt import GPT
from model.lora import add_adapters
from model.lora_settings import LoRASettings
from model.settings import resolve
from tests.end_to_end.headrace import run_file
from trainer.checkpoint.fragments import Fragment, Snapshot
from trainer.checkpoint.manifest import Header
from trainer.checkpoint.save import SaveTask, save_checkpoint
from trainer.config import RunConfig, load_run_file
from trainer.launch import open_launch

MODEL = {
    "preset": "llama-tiny",
    "n_layer": 2,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 32,
    "mlp_dim": 40,
    "max_seq_len": 32,
}


def load(file: Path) -> tuple[RunConfig, Dataset]:
    """A run file and its dataset, which is prepared where it is not there."""
    config = load_run_file(file)
    return config, prepare(config.data, dir=config.data_dir, min_val_tokens=config.seq_len + 1)


def new_run(folder: Path, name: str, **changes: Any) -> Path:
    """A run file with a vocabulary of 300 tokens, in 320 rows."""
    file = run_file(folder, name, **{"model": MODEL, "eval__interval": 100, "checkpoint__interval": 50, **changes})
    file.write_text(file.read_text().replace("vocab_size: 320", "vocab_size: 300"))
    return file


def random_weights(config: GPTConfig, seed: int, lora: LoRASettings | None = None) -> dict[str, Tensor]:
    """Every parameter random; rows that pad the vocabulary too, as training with weight decay may leave them."""
    torch.manual_seed(seed)
    model = GPT(config)
    if lora is not None:
        add_adapters(model, lora)
    return {name: value.detach() + 0.1 * torch.randn_like(value) for name, value in model.named_parameters()}


def save_weights(folder: Path, name: str, steps: dict[int, int], **changes: Any) -> dict[int, dict[str, Tensor]]:
    """Start a run and put checkpoints into it; from step and seed to the weights of each."""
    config, dataset = load(new_run(folder, name, **changes))
    launch = open_launch(config, dataset, False)
    model = dataclasses.replace(resolve(config.model, dataset.vocab_size), n_classes=len(dataset.classes) or None)
    settings = {"model": model.to_dict(), "dataset": dataset.fingerprint, "seed": config.seed}
    saved = {step: random_weights(model, seed, config.train.lora) for step, seed in steps.items()}
    for step, weights in saved.items():
        fragments = [
            Fragment(parameter, 0, value.flatten(), *torch.ones(2, value.numel()).unbind(), 7.0)
            for parameter, value in weights.items()
        ]
        shapes = {parameter: tuple(value.shape) for parameter, value in weights.items()}
        where = Header(launch.run_id, 1, step, step * 256, 1, 2, "fp32", {}, settings)
        save_checkpoint(SaveTask(Path(config.out_dir), where, Snapshot(shapes, fragments), 0))
    return saved
