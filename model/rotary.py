"""Rotary position embedding (Su et al. 2021, RoFormer, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import GPTConfig


@dataclass(frozen=True)
class Rotation:
    """By which angle each pair of channels of each token turns."""

    cos_btr: Tensor  # [B or 1, T, R / 2]
    sin_btr: Tensor
    pairs: str

    def turn(self, x_bthd: Tensor) -> Tensor:
        """[B, T, H, D] to the same; the first R channels of each head are rotated, the others stay."""
        half = self.cos_btr.shape[-1]
        cos, sin = (part.unsqueeze(-2).to(x_bthd.dtype) for part in (self.cos_btr, self.sin_btr))
        turned, rest = x_bthd[..., : 2 * half], x_bthd[..., 2 * half :]
        if self.pairs == "halves":
            a, b = turned[..., :half], turned[..., half:]
            return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)
        a, b = turned[..., 0::2], turned[..., 1::2]
        return torch.cat((torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2), rest), dim=-1)


def rotation(config: GPTConfig, positions_bt: Tensor) -> Rotation:
    """For tokens at these positions, int64 [B, T] or [T]. Angles are float32 whatever the model's dtype."""
    width = config.rotary_width
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=positions_bt.device) / width
    angles = positions_bt.unsqueeze(-1).float() * config.rotary_base**-exponents
    if angles.dim() == 2:
        angles = angles.unsqueeze(0)
    return Rotation(angles.cos(), angles.sin(), config.rotary_pairs)
