"""The model, its optimizer and the DeepSpeed engine around them."""

from __future__ import annotations

import logging
from typing import Any

import deepspeed
import torch
from torch import nn

from model.config import GPTConfig
from model.flops import parameter_count
from model.gpt import GPT
from trainer.batch import BatchPlan
from trainer.seeds import derive_seed
from trainer.settings import TrainSettings
from trainer.zero import deepspeed_config

logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for AdamW: matrices, which decay, and everything of fewer dimensions, which does not."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.dim() >= 2]
    others = [parameter for parameter in trainable if parameter.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def build_optimizer(module: nn.Module, train: TrainSettings) -> torch.optim.AdamW:
    """PyTorch's fused AdamW, which is compiled into torch and so needs no compiler at run time."""
    settings = train.optimizer
    groups = parameter_groups(module, settings.weight_decay)
    return torch.optim.AdamW(groups, lr=train.lr, betas=settings.betas, eps=settings.eps, fused=True)


def build_engine(
    config: GPTConfig, train: TrainSettings, plan: BatchPlan, precision: str, seed: int, device: torch.device
) -> Any:
    """A DeepSpeed engine around a freshly initialised GPT; the same seed gives the same weights on every rank.

    The process group must stand. Raises TrainError where `train.deepspeed` sets what Headrace owns.
    """
    torch.manual_seed(derive_seed(seed, "weights"))
    module = GPT(config).to(device)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=build_optimizer(module, train),
        config=deepspeed_config(train, plan, precision, parameter_count(config)),
        dist_init_required=False,
    )
    scaler: Any = getattr(engine.optimizer, "loss_scaler", None)
    if hasattr(scaler, "raise_error_at_min_scale"):
        scaler.raise_error_at_min_scale = False  # what follows many overflows is trainer.bad_numbers' to say
    return engine


def set_learning_rate(engine: Any, rate: float) -> None:
    """The rate of the next optimizer step, in all parameter groups."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
