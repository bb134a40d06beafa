"""The layers of which a GPT's parts are made, and how they start."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import INIT_STD, GPTConfig


class Linear(nn.Linear):
    """A linear layer which starts normal with the given deviation, and its bias, if it has one, at zero.

    It does so in its own constructor, so that it also holds where parameters are split over ranks right after.
    """

    def __init__(self, in_features: int, out_features: int, std: float = INIT_STD, bias: bool = True) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias=bias)
        self.adapter: nn.Module | None = None  # of low rank (see model.lora)

    def reset_parameters(self) -> None:
        """Draw the weights from torch's global generator."""
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        y = F.linear(x, self.weight, self.bias)
        return y if self.adapter is None else y + self.adapter(x)


class Embedding(nn.Embedding):
    """An embedding which starts normal with deviation 0.02."""

    def reset_parameters(self) -> None:
        """Draw the weights from torch's global generator."""
        nn.init.normal_(self.weight, std=INIT_STD)


def make_norm(config: GPTConfig, width: int | None = None) -> nn.Module:
    """The config's norm over the residual stream, or over so many channels."""
    kind = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return kind(config.n_embd if width is None else width, eps=config.norm_eps)


def residual_std(config: GPTConfig) -> float:
    """Deviation of the 2 * n_layer projections whose outputs add up in the residual stream (Radford et al. 2019, 2.3).

    Those of an encoder-decoder are 3 * n_layer. Where norms come after the sum (GPT-1), the stream does not grow, and
    they start like all others.
    """
    summands = (3 if config.arch == "encoder_decoder" else 2) * config.n_layer
    return INIT_STD if config.norm_place == "after" else INIT_STD / math.sqrt(summands)


class MLP(nn.Module):
    """Two linear layers around GELU (Hendrycks and Gimpel 2016), or three around SwiGLU (Shazeer 2020)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.activation = config.activation
        width, bias = config.mlp_width, config.mlp_bias
        if config.activation == "swiglu":
            self.c_gate = Linear(config.n_embd, width, bias=bias)
        self.c_fc = Linear(config.n_embd, width, bias=bias)
        self.c_proj = Linear(width, config.n_embd, std=residual_std(config), bias=bias)

    def forward(self, x_btc: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C], each token by itself."""
        y_btc = self.c_proj(self._activate(x_btc))
        return F.dropout(y_btc, self.dropout, self.training)

    def _activate(self, x_btc: Tensor) -> Tensor:
        """[B, T, C] to what is inside the MLP."""
        if self.activation == "swiglu":
            return F.silu(self.c_gate(x_btc)) * torch.as_tensor(self.c_fc(x_btc))
        return F.gelu(self.c_fc(x_btc), approximate="tanh" if self.activation == "gelu_tanh" else "none")
