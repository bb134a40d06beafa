"""How the next token is chosen from a model's logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import ModelError


@dataclass(frozen=True)
class Sampling:
    """What a token is drawn by, applied in this order (as in `transformers`).

    repetition_penalty: logits of tokens that the row already has, prompt included, are divided by it where positive
    and multiplied where negative (Keskar et al. 2019, CTRL, section 4.1; 1 is none). temperature: logits are divided
    by it; 0 takes the likeliest token. top_k: only so many of the likeliest. top_p: of these, the fewest likeliest
    that have so much probability together (Holtzman et al. 2020, nucleus sampling). Raises ModelError for a value
    outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0.0:
            raise ModelError(f"temperature is {self.temperature}; it must be at least 0 (0 takes the likeliest token)")
        if self.top_k is not None and self.top_k < 1:
            raise ModelError(f"top_k is {self.top_k}; it must be at least 1, or left out")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ModelError(f"top_p is {self.top_p}; it must be above 0 and at most 1, or left out")
        if not self.repetition_penalty > 0.0:
            raise ModelError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0 (1 is none)")


def draw(logits_v: Tensor, seen_v: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The id of a next token.

    logits_v: float32 [V] on the CPU, of the real vocabulary. seen_v: bool [V], which ids the row already has.
    """
    if sampling.repetition_penalty != 1.0:
        logits_v = _penalised(logits_v, seen_v, sampling.repetition_penalty)
    if sampling.temperature == 0.0:
        return int(logits_v.argmax())
    weights_n, candidates_n = candidates(logits_v, sampling)
    return int(candidates_n[torch.multinomial(weights_n, 1, generator=generator)])


def candidates(logits_v: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Ids that may be drawn, int64 [N], and in what proportions, float32 [N], at a temperature above 0."""
    if sampling.top_k is None and sampling.top_p is None:
        return torch.softmax(logits_v / sampling.temperature, dim=0), torch.arange(len(logits_v))
    values_n, candidates_n = logits_v.topk(min(sampling.top_k or len(logits_v), len(logits_v)))
    p_n = torch.softmax(values_n / sampling.temperature, dim=0)
    if sampling.top_p is not None:
        p_n = p_n[p_n.cumsum(0) - p_n < sampling.top_p]  # by falling probability; the first always stays
    return p_n, candidates_n[: len(p_n)]


def _penalised(logits_v: Tensor, seen_v: Tensor, penalty: float) -> Tensor:
    weaker = torch.where(logits_v > 0, logits_v / penalty, logits_v * penalty)
    return torch.where(seen_v, weaker, logits_v)
