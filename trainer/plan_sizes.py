"""The exact sizes of a run's model, which is built on the meta device and takes no memory."""

from __future__ import annotations

import math

import torch

from model.config import GPTConfig
from model.encoder_decoder import build_model
from trainer.freezing import prepare_for_tuning
from trainer.muon_shapes import muon_shapes
from trainer.plan_states import Sizes
from trainer.settings import TrainSettings


def model_sizes(config: GPTConfig, train: TrainSettings) -> Sizes:
    """Of the model as it is trained in the run's first stage, adapters included.

    Raises:
        TrainError, ModelError: patterns of `train.freeze` that match nothing, or nothing is left to train.
    """
    with torch.device("meta"):
        module = build_model(config)
        prepare_for_tuning(module, train.of_stage(0), seed=0)
    named = dict(module.named_parameters())
    trained = {name: parameter.numel() for name, parameter in named.items() if parameter.requires_grad}
    matrices = muon_shapes(module) if train.optimizer.name == "muon" else {}
    return Sizes(
        total=sum(parameter.numel() for parameter in named.values()),
        trained=sum(trained.values()),
        one_moment=sum(math.prod(shape) for shape in matrices.values()),
        largest=max(trained.values()),
        block=sum(size for name, size in trained.items() if name.startswith("h.0.")),
        each=tuple(parameter.numel() for parameter in named.values()),
    )
