"""The optimizer of a model: which parameters it treats how."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from model.attention import Attention
from trainer.freezing import lr_scales
from trainer.muon import Muon
from trainer.muon_shapes import muon_shapes, trainable
from trainer.settings import TrainSettings


def parameter_groups(module: nn.Module, train: TrainSettings) -> list[dict[str, Any]]:
    """The trainable parameters by how they are treated, at least one group, none of them empty.

    Matrices decay and what has fewer dimensions does not. Each group has `params`, `weight_decay`, `lr_scale` (the
    group's share of the learning rate) and `muon`: whether Muon steps on it.
    """
    by_muon = muon_shapes(module) if train.optimizer.name == "muon" else {}
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    named = list(trainable(module))
    for (name, parameter), lr_scale in zip(named, lr_scales([name for name, _ in named], train), strict=True):
        groups.setdefault((name in by_muon, parameter.dim() >= 2, lr_scale), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": train.optimizer.weight_decay if decays else 0.0,
            "lr_scale": lr_scale,
            "muon": muon,
        }
        for (muon, decays, lr_scale), parameters in groups.items()
    ]


def build_optimizer(module: nn.Module, train: TrainSettings) -> torch.optim.AdamW:
    """PyTorch's fused AdamW, which is compiled into torch and so needs no compiler at run time, or Muon beside it.

    Call it before ZeRO takes parameters apart: their shapes are read here.
    """
    settings, groups = train.optimizer, parameter_groups(module, train)
    if settings.name == "muon":
        return Muon(groups, train.lr, settings, muon_shapes(module), attention_blocks(module))
    return torch.optim.AdamW(groups, lr=train.lr, betas=settings.betas, eps=settings.eps, fused=True)


def attention_blocks(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Rows of the matrices that attention keeps in one, by name: queries, keys and values are orthogonal on their own,
    as Jordan et al. advise."""
    return {
        f"{place}.c_attn.weight": (part.n_head * part.head_dim, *[part.n_kv_head * part.head_dim] * 2)
        for place, part in module.named_modules()
        if isinstance(part, Attention)
    }
