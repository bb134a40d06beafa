"""The model, its optimizer and the DeepSpeed engine around them."""

from __future__ import annotations

import logging
from typing import Any

import deepspeed
import torch
from deepspeed.utils import nvtx
from torch import nn
from torch._dynamo import trace_rules
from torch._inductor import config as inductor

from model.config import GPTConfig
from model.encoder_decoder import build_model
from model.flops import parameter_count
from trainer.batch import BatchPlan
from trainer.compiler import check_compiler
from trainer.freezing import prepare_for_tuning
from trainer.optimizer import build_optimizer
from trainer.seeds import derive_seed
from trainer.settings import TrainSettings
from trainer.zero import deepspeed_config

logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


def build_engine(
    config: GPTConfig, train: TrainSettings, plan: BatchPlan, precision: str, seed: int, device: torch.device
) -> Any:
    """A DeepSpeed engine around a freshly initialised model; the same seed gives the same weights on every rank.

    train: of one stage (see `trainer.stages`). The process group must stand. Raises TrainError where `train.deepspeed`
    sets what Headrace owns, `train.compile` finds no compiler, or nothing is left to train.
    """
    if train.compile:
        check_compiler(device.type)
    torch.manual_seed(derive_seed(seed, "weights"))
    module = build_model(config).to(device)
    module.z_loss = train.loss.z_loss
    prepare_for_tuning(module, train, seed)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=build_optimizer(module, train),
        config=deepspeed_config(train, plan, precision, parameter_count(config)),
        dist_init_required=False,
    )
    if plan.world_size == 1 and not engine.zero_optimization():
        engine.enable_backward_allreduce = False  # it would copy all gradients to send them to nobody
    if train.compile:
        _compile(module)
    scaler: Any = getattr(engine.optimizer, "loss_scaler", None)
    if hasattr(scaler, "raise_error_at_min_scale"):
        scaler.raise_error_at_min_scale = False  # what follows many overflows is trainer.bad_numbers' to say
    return engine


def _compile(module: nn.Module) -> None:
    """Have the blocks compiled at their first call, once for all of them, as they share their code.

    Not the whole module, as `engine.compile()` has it: the time would grow with the blocks and with the loss's chunks.
    """
    nvtx.enable_nvtx = False  # DeepSpeed's ranges would cut the code in pieces
    inductor.compile_threads = 1  # else a pool of processes, which nobody would end with this rank
    trace_rules.add("model.documents")  # each batch's documents would have code of their own
    for part in module.modules():
        for block in part if isinstance(part, nn.ModuleList) else ():
            block.compile()


def set_learning_rate(engine: Any, rate: float) -> None:
    """The rate of the next optimizer step; each parameter group has its share of it."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
