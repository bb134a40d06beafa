"""The `model:` section of a run file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from model.config import GPTConfig, pad_vocab
from model.presets import PRESETS, PresetName


class ModelSettings(BaseModel):
    """A preset, and what differs from it; a field that is left out is the preset's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    preset: PresetName = Field(default="gpt2", description="The shape to start from.")
    n_layer: PositiveInt | None = Field(default=None, description="Blocks.")
    n_head: PositiveInt | None = Field(default=None, description="Attention heads per block; they divide n_embd.")
    n_embd: PositiveInt | None = Field(default=None, description="Width of the residual stream.")
    max_seq_len: PositiveInt | None = Field(
        default=None, description="Tokens per training sequence, and the longest text the model can attend to."
    )
    dropout: float | None = Field(default=None, ge=0.0, lt=1.0, description="After embeddings, attention and MLP.")
    n_kv_head: PositiveInt | None = Field(
        default=None, description="Heads of keys and values, which divide n_head; by itself n_head."
    )
    head_dim: PositiveInt | None = Field(default=None, description="Channels of a head; by itself n_embd / n_head.")
    mlp_dim: PositiveInt | None = Field(default=None, description="Width inside the MLP; by itself 4 n_embd.")
    activation: Literal["gelu_tanh", "gelu", "swiglu"] | None = Field(
        default=None, description="Inside the MLP; swiglu has a third matrix."
    )
    norm: Literal["layer", "rms"] | None = Field(default=None, description="LayerNorm or RMSNorm.")
    norm_place: Literal["before", "after"] | None = Field(
        default=None, description="Before attention and MLP, or after the sums with the residual stream (GPT-1)."
    )
    norm_eps: PositiveFloat | None = Field(default=None, description="Added to the variance in a norm.")
    parallel_block: bool | None = Field(
        default=None, description="Attention and MLP see the same norm and are added together (GPT-J)."
    )
    positions: Literal["learned", "rotary"] | None = Field(default=None, description="How a token knows its place.")
    rotary_dim: PositiveInt | None = Field(default=None, description="Channels of a head that turn; by itself all.")
    rotary_base: PositiveFloat | None = Field(default=None, description="Of the wavelengths; larger for longer texts.")
    rotary_pairs: Literal["halves", "neighbours"] | None = Field(
        default=None, description="Which channels turn together: i and i + rotary_dim / 2, or 2 i and 2 i + 1 (GPT-J)."
    )
    qk_norm: bool | None = Field(default=None, description="RMSNorm of each head's queries and keys (Qwen3).")
    qkv_bias: bool | None = Field(default=None, description="Biases of queries, keys and values.")
    attention_out_bias: bool | None = Field(default=None, description="A bias of attention's output.")
    mlp_bias: bool | None = Field(default=None, description="Biases in the MLP.")
    tied_head: bool | None = Field(default=None, description="The output layer is the token embedding.")
    head_bias: bool | None = Field(default=None, description="A bias for each token of the vocabulary.")
    arch: Literal["decoder", "encoder_decoder"] | None = Field(
        default=None,
        description="encoder_decoder: an encoder over a sequence's beginning, up to a point that is drawn or the "
        "prompt's end, and a decoder with n_layer blocks over the rest. The published GPT models are decoders",
    )
    n_encoder_layer: PositiveInt | None = Field(
        default=None, description="Blocks of an encoder-decoder's encoder; by itself n_layer."
    )

    @model_validator(mode="after")
    def _is_a_shape(self) -> ModelSettings:
        self.shape()
        return self

    def shape(self) -> GPTConfig:
        """The preset with this section's own values put in, for a vocabulary of one token."""
        return resolve(self, vocab_size=1)


SHAPE_FIELDS = tuple(name for name in ModelSettings.model_fields if name != "preset")
"""The fields of `GPTConfig` that a run file can set."""


def resolve(settings: ModelSettings, vocab_size: int, activation_checkpointing: str = "none") -> GPTConfig:
    """The model to build for a tokenizer of `vocab_size` ids. Raises ModelError for a mode that does not exist."""
    given = {name: value for name in SHAPE_FIELDS if (value := getattr(settings, name)) is not None}
    return GPTConfig(
        vocab_size=pad_vocab(vocab_size),
        real_vocab_size=vocab_size,
        activation_checkpointing=activation_checkpointing,
        **{**PRESETS[settings.preset].shape, **given},
    )


def settings_of(config: GPTConfig) -> dict[str, Any]:
    """A `model:` section that resolves to this shape, whatever the preset; what follows from other fields is left
    out, as in `GPTConfig`."""
    values = config.to_dict()
    return {name: values[name] for name in SHAPE_FIELDS if values[name] is not None}
