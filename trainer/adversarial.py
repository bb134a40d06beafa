"""Adversarial training on embeddings, by the fast gradient method.

Goodfellow et al. 2015 (section 4) for images; Miyato et al. 2017 (equation 5) for text: with g the gradient of the loss
with respect to a sequence's embeddings, the loss of the embeddings + epsilon g / ||g|| counts too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.settings import AdversarialSettings


def passes_of(adversarial: AdversarialSettings | None) -> int:
    """Forward and backward passes of a step over its tokens: a second one at the moved embeddings."""
    return 1 if adversarial is None else 2


def no_shift(tokens_bt: Tensor, channels: int) -> Tensor:
    """A shift by nothing, float32 [B, T, C], whose gradient is that of the embedded tokens."""
    return torch.zeros(*tokens_bt.shape, channels, device=tokens_bt.device, requires_grad=True)


def perturbation(gradient_btc: Tensor, epsilon: float) -> Tensor:
    """epsilon g / ||g|| for each sequence's gradient g, float32 [B, T, C]; nothing where a sequence has none.

    Its length is epsilon whatever the gradient is multiplied by, such as a loss scale.
    """
    largest = gradient_btc.abs().amax(dim=(1, 2), keepdim=True)
    gradient_btc = gradient_btc / torch.where(largest > 0, largest, 1.0)  # squares of small numbers would vanish
    norm = torch.linalg.vector_norm(gradient_btc, dim=(1, 2), keepdim=True)
    return epsilon * gradient_btc / torch.where(norm > 0, norm, 1.0)
