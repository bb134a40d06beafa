"""What of a model is trained, and at what share of the learning rate: by the names of its parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from model.config import GPTConfig
from model.encoder_decoder import build_model
from model.lora import add_adapters, is_adapter
from trainer.errors import TrainError
from trainer.seeds import derive_seed
from trainer.settings import TrainSettings

_BLOCK = re.compile(r"(?:^|\.)h\.(\d+)\.")
_EMBEDDINGS = ("wte", "wpe")


def frozen_names(names: Sequence[str], train: TrainSettings) -> set[str]:
    """The parameters that do not change: those that `train.freeze` names, and with adapters all but these.

    Pure. Raises TrainError: a pattern matches nothing, or nothing is left.
    """
    for pattern in train.freeze:
        if not _matching(names, [pattern]):
            raise TrainError(
                f"train.freeze: {pattern!r} must match the name of a parameter and matches none; "
                f"there are {', '.join(_shown(names))}"
            )
    frozen = _matching(names, train.freeze)
    if train.lora is not None:
        trained = _matching(names, train.lora.also_train)
        frozen |= {name for name in names if not is_adapter(name) and name not in trained}
    if len(frozen) == len(names):
        raise TrainError(f"train.freeze: {list(train.freeze)} leaves nothing to train; take a pattern out.")
    return frozen


def lr_scales(names: Sequence[str], train: TrainSettings) -> list[float]:
    """Each parameter's share of the learning rate, by `train.layer_decay`: 1 above the blocks, and `layer_decay` times
    that of the layer above in each block and in the embeddings (Howard and Ruder 2018, 3.2; Clark et al. 2020,
    appendix A). Pure.
    """
    if train.layer_decay == 1.0:
        return [1.0] * len(names)
    blocks = max((int(match[1]) for match in map(_BLOCK.search, names) if match), default=-1) + 1
    return [train.layer_decay ** _layers_above(name, blocks) for name in names]


def _layers_above(name: str, blocks: int) -> int:
    """How many layers lie between a parameter and the loss: 0 for the head, `blocks` + 1 for the embeddings."""
    match = _BLOCK.search(name)
    if match:
        return blocks - int(match[1])
    return blocks + 1 if any(part in _EMBEDDINGS for part in name.split(".")) else 0


def prepare_for_tuning(module: nn.Module, train: TrainSettings, seed: int) -> None:
    """Put in adapters, and take what is frozen out of the training.

    Raises:
        TrainError, ModelError: patterns that match nothing, or nothing is left to train.
    """
    if train.lora is not None:
        torch.manual_seed(derive_seed(seed, "adapters"))
        add_adapters(module, train.lora)
    frozen = frozen_names([name for name, _ in module.named_parameters()], train)
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def check_patterns(config: GPTConfig, train: TrainSettings) -> None:
    """Refuse patterns that match nothing, in any stage, before anything starts.

    Raises:
        TrainError, ModelError: naming the pattern.
    """
    if not train.names_parameters:
        return
    with torch.device("meta"):
        for index in range(max(len(train.stages), 1)):
            prepare_for_tuning(build_model(config), train.of_stage(index), seed=0)


def _matching(names: Iterable[str], patterns: Sequence[str]) -> set[str]:
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _shown(names: Sequence[str]) -> list[str]:
    """The names outside the blocks and those of the first block."""
    return [name for name in names if not (match := _BLOCK.search(name)) or match[1] == "0"]
