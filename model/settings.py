"""The `model:` section of a run file."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from model.config import GPTConfig, check_heads, pad_vocab

PresetName = Literal["gpt2-tiny", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]


class Preset(NamedTuple):
    """A model's shape but for its vocabulary, which comes from the tokenizer."""

    n_layer: int
    n_head: int
    n_embd: int
    max_seq_len: int
    dropout: float


# The four sizes as published (Radford et al. 2019, table 2), with their dropout of 0.1.
PRESETS: dict[PresetName, Preset] = {
    "gpt2-tiny": Preset(n_layer=4, n_head=4, n_embd=256, max_seq_len=256, dropout=0.0),
    "gpt2": Preset(n_layer=12, n_head=12, n_embd=768, max_seq_len=1024, dropout=0.1),
    "gpt2-medium": Preset(n_layer=24, n_head=16, n_embd=1024, max_seq_len=1024, dropout=0.1),
    "gpt2-large": Preset(n_layer=36, n_head=20, n_embd=1280, max_seq_len=1024, dropout=0.1),
    "gpt2-xl": Preset(n_layer=48, n_head=25, n_embd=1600, max_seq_len=1024, dropout=0.1),
}


class ModelSettings(BaseModel):
    """A preset, and what differs from it; a field that is left out is the preset's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: PresetName = Field(default="gpt2", description="The shape to start from.")
    n_layer: PositiveInt | None = Field(default=None, description="Blocks.")
    n_head: PositiveInt | None = Field(default=None, description="Attention heads per block; they divide n_embd.")
    n_embd: PositiveInt | None = Field(default=None, description="Width of the residual stream.")
    max_seq_len: PositiveInt | None = Field(
        default=None, description="Tokens per training sequence, and the longest text the model can attend to."
    )
    dropout: float | None = Field(default=None, ge=0.0, lt=1.0, description="After embeddings, attention and MLP.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelSettings:
        shape = self.shape()
        check_heads(shape.n_embd, shape.n_head)
        return self

    def shape(self) -> Preset:
        """The preset with this section's own values put in."""
        given = {name: value for name in Preset._fields if (value := getattr(self, name)) is not None}
        return PRESETS[self.preset]._replace(**given)


def resolve(settings: ModelSettings, vocab_size: int, activation_checkpointing: str = "none") -> GPTConfig:
    """The model to build for a tokenizer of `vocab_size` ids. Raises ModelError for a mode that does not exist."""
    return GPTConfig(
        vocab_size=pad_vocab(vocab_size),
        real_vocab_size=vocab_size,
        activation_checkpointing=activation_checkpointing,
        **settings.shape()._asdict(),
    )
