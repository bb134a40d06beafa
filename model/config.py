"""The shape of a GPT: what is needed to build one, and nothing else. Standard library only."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from model.errors import ModelError

VOCAB_MULTIPLE = 64


def pad_vocab(vocab_size: int) -> int:
    """The smallest multiple of 64 that holds `vocab_size` ids: matrix products are fast at aligned widths."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def checkpoint_period(mode: str) -> int:
    """Read an activation checkpointing mode: `none` is 0, `full` is 1, `every_K` is K (block 0, K, 2K, ...).

    Raises ModelError for anything else.
    """
    if mode in ("none", "full"):
        return int(mode == "full")
    match = re.fullmatch(r"every_([1-9][0-9]*)", mode)
    if match is None:
        raise ModelError(f"activation_checkpointing is {mode!r}; use none, full, or every_K such as every_2")
    return int(match.group(1))


def check_heads(n_embd: int, n_head: int) -> None:
    """Raises ModelError unless `n_head` divides `n_embd`; the message names the nearest widths that do."""
    if n_embd % n_head == 0:
        return
    below = n_embd - n_embd % n_head
    nearest = " or ".join(str(width) for width in (below, below + n_head) if width > 0)
    raise ModelError(
        f"model.n_embd is {n_embd}, which model.n_head = {n_head} does not divide: "
        f"all heads are equally wide; set model.n_embd to {nearest}, or change model.n_head"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """A GPT's shape.

    `vocab_size` counts the rows of the embedding, padded to a multiple of 64; ids from `real_vocab_size` on
    stand for nothing: their logits are -inf, so that padding changes neither the loss nor generated text.
    """

    vocab_size: int
    real_vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    max_seq_len: int
    dropout: float = 0.0
    activation_checkpointing: str = "none"

    def __post_init__(self) -> None:
        """Raises ModelError for a shape that no model can have."""
        for name in ("real_vocab_size", "n_layer", "n_head", "n_embd", "max_seq_len"):
            if getattr(self, name) < 1:
                raise ModelError(f"model.{name} is {getattr(self, name)}; it must be at least 1")
        if self.real_vocab_size > self.vocab_size:
            raise ModelError(f"{self.real_vocab_size} token ids do not fit {self.vocab_size} embedding rows")
        if not 0.0 <= self.dropout < 1.0:
            raise ModelError(f"model.dropout is {self.dropout}; it must be at least 0 and below 1")
        check_heads(self.n_embd, self.n_head)
        checkpoint_period(self.activation_checkpointing)

    def is_checkpointed(self, layer: int) -> bool:
        """Whether block `layer` (from 0) recomputes its activations in the backward pass."""
        period = checkpoint_period(self.activation_checkpointing)
        return period > 0 and layer % period == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> GPTConfig:
        """The inverse of `to_dict`. Raises ModelError if fields are missing or unknown."""
        try:
            return GPTConfig(**values)
        except TypeError as error:
            raise ModelError(f"this is not the description of a GPT ({error}); it has {sorted(values)}") from error
