"""Small models for the tests."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from model.config import GPTConfig
from model.gpt import GPT

SMALL = GPTConfig(
    vocab_size=128,
    real_vocab_size=100,
    n_layer=3,
    n_head=2,
    n_embd=32,
    max_seq_len=16,
)


def build(seed: int = 0, **changes: object) -> GPT:
    """A GPT of the small shape with the given fields changed."""
    torch.manual_seed(seed)
    return GPT(dataclasses.replace(SMALL, **changes))  # type: ignore[arg-type]


def random_tokens(batch: int, length: int, seed: int = 1) -> Tensor:
    """Ids of the small vocabulary, int64 [batch, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SMALL.real_vocab_size, (batch, length), generator=generator)


def gradients(model: GPT) -> dict[str, Tensor]:
    """Every parameter's gradient."""
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
