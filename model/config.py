"""The shape of a GPT: what is needed to build one, and nothing else. Standard library only."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from model.errors import ModelError

VOCAB_MULTIPLE = 64
INIT_STD = 0.02
"""Deviation of weights at the start, but where they add up in the residual stream."""


def pad_vocab(vocab_size: int) -> int:
    """The smallest multiple of 64 that holds `vocab_size` ids: matrix products are fast at aligned widths."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def checkpoint_period(mode: str) -> int:
    """Of how many blocks one is recomputed in an activation checkpointing mode, the first of them; 0: none is.

    `none` is 0, `every_K` is K (block 0, K, 2K, ...), `full`, `full_cpu` and `selective` are 1, which differ in what
    they keep of a block (`model.recomputation`). Raises ModelError for anything else.
    """
    if mode in ("none", "full", "full_cpu", "selective"):
        return int(mode != "none")
    match = re.fullmatch(r"every_([1-9][0-9]*)", mode)
    if match is None:
        raise ModelError(
            f"activation_checkpointing is {mode!r}; use none, selective, full, full_cpu, or every_K such as every_2"
        )
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


NORMS = ("layer", "rms")
NORM_PLACES = ("before", "after")
POSITIONS = ("learned", "rotary")
ROTARY_PAIRS = ("neighbours", "halves")
ACTIVATIONS = ("gelu_tanh", "gelu", "swiglu")
ARCHITECTURES = ("decoder", "encoder_decoder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """A GPT's shape. The defaults of what is optional are GPT-2's.

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
    n_kv_head: int | None = None  # heads of keys and values, each for n_head / n_kv_head of queries; None: n_head
    head_dim: int | None = None  # channels of a head; None: n_embd / n_head
    mlp_dim: int | None = None  # width inside the MLP; None: 4 n_embd
    activation: str = "gelu_tanh"
    norm: str = "layer"
    norm_place: str = "before"  # attention and MLP, or after the sum with the residual stream (GPT-1)
    norm_eps: float = 1e-5
    parallel_block: bool = False  # attention and MLP both see the one norm, and are added together (GPT-J)
    positions: str = "learned"
    rotary_dim: int | None = None  # channels of a head that are rotated; None: all
    rotary_base: float = 10_000.0
    rotary_pairs: str = "halves"  # channel i turns with i + rotary_dim / 2 (Llama), or 2 i with 2 i + 1 (GPT-J)
    qk_norm: bool = False  # RMSNorm of each head's queries and keys (Qwen3)
    qkv_bias: bool = True
    attention_out_bias: bool = True
    mlp_bias: bool = True
    tied_head: bool = True  # the output layer is the token embedding
    head_bias: bool = False
    n_classes: int | None = None  # outputs of a classifier's head, in place of the vocabulary's
    arch: str = "decoder"
    n_encoder_layer: int | None = None  # of an encoder-decoder; None: n_layer

    def __post_init__(self) -> None:
        """Raises ModelError for a shape that no model can have."""
        for name in ("real_vocab_size", "n_layer", "n_head", "n_embd", "max_seq_len"):
            if getattr(self, name) < 1:
                raise ModelError(f"model.{name} is {getattr(self, name)}; it must be at least 1")
        if self.real_vocab_size > self.vocab_size:
            raise ModelError(f"{self.real_vocab_size} token ids do not fit {self.vocab_size} embedding rows")
        if not 0.0 <= self.dropout < 1.0:
            raise ModelError(f"model.dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.head_dim is None:
            check_heads(self.n_embd, self.n_head)
        self._check_choices()
        self._check_heads_of_attention()
        self._check_architecture()
        checkpoint_period(self.activation_checkpointing)

    def _check_choices(self) -> None:
        for name, choices in (
            ("activation", ACTIVATIONS),
            ("norm", NORMS),
            ("norm_place", NORM_PLACES),
            ("positions", POSITIONS),
            ("rotary_pairs", ROTARY_PAIRS),
            ("arch", ARCHITECTURES),
        ):
            if getattr(self, name) not in choices:
                raise ModelError(f"model.{name} is {getattr(self, name)!r}; use {' or '.join(choices)}")
        if self.parallel_block and self.norm_place == "after":
            raise ModelError("model.parallel_block needs model.norm_place: before; set one of the two otherwise")

    def _check_heads_of_attention(self) -> None:
        if self.n_head % self.kv_heads:
            raise ModelError(
                f"model.n_kv_head is {self.kv_heads}, which must divide model.n_head = {self.n_head}, since each head "
                "of keys serves equally many of queries"
            )
        if self.positions == "rotary" and (self.rotary_width % 2 or self.rotary_width > self.head_width):
            raise ModelError(
                f"model.rotary_dim is {self.rotary_width}; channels turn in pairs, so it must be even and at most the "
                f"{self.head_width} channels of a head"
            )

    def _check_architecture(self) -> None:
        if self.n_classes is not None and not 2 <= self.n_classes <= self.real_vocab_size:
            raise ModelError(
                f"a classifier of {self.n_classes} classes cannot be trained: there must be at least 2, and at most "
                f"the {self.real_vocab_size} ids of the vocabulary, by which they are stored"
            )
        if self.arch == "decoder" and self.n_encoder_layer is not None:
            raise ModelError(
                f"model.n_encoder_layer is {self.n_encoder_layer}, which a decoder alone does not have; leave it out, "
                "or set model.arch: encoder_decoder"
            )
        if self.arch == "encoder_decoder":
            self._check_encoder_decoder()

    def _check_encoder_decoder(self) -> None:
        if self.encoder_layers < 1:
            raise ModelError(f"model.n_encoder_layer is {self.encoder_layers}; it must be at least 1")
        if self.n_classes is not None:
            raise ModelError("model.arch is encoder_decoder, but the data has classes; a classifier is a decoder")
        if self.parallel_block:
            raise ModelError(
                "model.parallel_block is true, but the blocks of model.arch: encoder_decoder attend twice, one after "
                "the other; set it to false"
            )

    @property
    def encoder_layers(self) -> int:
        """Blocks of an encoder-decoder's encoder."""
        return self.n_layer if self.n_encoder_layer is None else self.n_encoder_layer

    @property
    def kv_heads(self) -> int:
        """Heads of keys and of values."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def head_width(self) -> int:
        """Channels of a head."""
        return self.n_embd // self.n_head if self.head_dim is None else self.head_dim

    @property
    def mlp_width(self) -> int:
        """Channels inside the MLP."""
        return 4 * self.n_embd if self.mlp_dim is None else self.mlp_dim

    @property
    def rotary_width(self) -> int:
        """Channels of a head that are rotated."""
        return self.head_width if self.rotary_dim is None else self.rotary_dim

    def is_checkpointed(self, layer: int) -> bool:
        """Whether block `layer` (from 0) recomputes its activations in the backward pass."""
        period = checkpoint_period(self.activation_checkpointing)
        return period > 0 and layer % period == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> GPTConfig:
        """The inverse of `to_dict`; fields that came later may be missing. Raises ModelError if others are, or if
        there are unknown ones."""
        try:
            return GPTConfig(**values)
        except TypeError as error:
            raise ModelError(f"this is not the description of a GPT ({error}); it has {sorted(values)}") from error


DEFAULT_SHAPE: dict[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(GPTConfig)
    if field.default is not dataclasses.MISSING and field.name != "activation_checkpointing"
}
"""What a shape has that was written down before these fields were there."""
