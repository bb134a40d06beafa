"""Published shapes by name. A shape has no vocabulary, which comes from the tokenizer. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PresetName = Literal[
    "gpt1",
    "gpt2-tiny",
    "gpt2",
    "gpt2-medium",
    "gpt2-large",
    "gpt2-xl",
    "gpt3-125m",
    "gpt3-350m",
    "gpt3-760m",
    "gpt3-1.3b",
    "gpt3-2.7b",
    "gpt3-6.7b",
    "gpt3-13b",
    "gpt3-175b",
    "gptj-6b",
    "llama-tiny",
    "llama-135m",
]


@dataclass(frozen=True)
class Preset:
    """Fields of `GPTConfig` that differ from its defaults, and how its authors trained it, where that was published."""

    shape: Mapping[str, Any] = field(default_factory=dict)
    batch_tokens: int | None = None  # tokens of an optimizer step
    lr: float | None = None  # highest learning rate

    def batch_sequences(self, seq_len: int) -> int | None:
        """Sequences of an optimizer step, where its tokens were published."""
        return None if self.batch_tokens is None else max(1, self.batch_tokens // seq_len)


def _shape(n_layer: int, n_embd: int, n_head: int, max_seq_len: int, **others: Any) -> dict[str, Any]:
    return {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head, "max_seq_len": max_seq_len, **others}


_GPT2_DROPOUT = {"dropout": 0.1}
_GPT3_POSITIONS = 2048
_GPTJ = {
    "parallel_block": True,
    "positions": "rotary",
    "rotary_dim": 64,
    "rotary_pairs": "neighbours",
    "qkv_bias": False,
    "attention_out_bias": False,
    "tied_head": False,
    "head_bias": True,
}
_LLAMA = {
    "activation": "swiglu",
    "norm": "rms",
    "positions": "rotary",
    "qkv_bias": False,
    "attention_out_bias": False,
    "mlp_bias": False,
}


def _gpt3(n_layer: int, n_embd: int, n_head: int, batch_sequences: int, lr: float) -> Preset:
    """The paper's batches of 0.5, 1, 2 and 3.2 million tokens are taken as whole sequences of 2048 tokens."""
    shape = _shape(n_layer, n_embd, n_head, _GPT3_POSITIONS)
    return Preset(shape, batch_tokens=batch_sequences * _GPT3_POSITIONS, lr=lr)


PRESETS: dict[PresetName, Preset] = {
    # Radford et al. 2018, section 4.1: norms follow the sums.
    "gpt1": Preset(_shape(12, 768, 12, 512, norm_place="after", dropout=0.1)),
    "gpt2-tiny": Preset(_shape(4, 256, 4, 256)),
    # Radford et al. 2019, table 2, with their dropout of 0.1.
    "gpt2": Preset(_shape(12, 768, 12, 1024, **_GPT2_DROPOUT)),
    "gpt2-medium": Preset(_shape(24, 1024, 16, 1024, **_GPT2_DROPOUT)),
    "gpt2-large": Preset(_shape(36, 1280, 20, 1024, **_GPT2_DROPOUT)),
    "gpt2-xl": Preset(_shape(48, 1600, 25, 1024, **_GPT2_DROPOUT)),
    # Brown et al. 2020, table 2.1. Attention is dense in every block; theirs is sparse in every second one. Where the
    # table's heads and width do not agree (1.3b: 24 heads of 128 in 2048; 13b: 40 heads of 128 in 5140), the width of
    # a head counts: 16 heads in 2048, and 40 heads in 5120, which the paper's parameter counts (table D.1) agree with.
    "gpt3-125m": _gpt3(12, 768, 12, 256, 6.0e-4),
    "gpt3-350m": _gpt3(24, 1024, 16, 256, 3.0e-4),
    "gpt3-760m": _gpt3(24, 1536, 16, 256, 2.5e-4),
    "gpt3-1.3b": _gpt3(24, 2048, 16, 512, 2.0e-4),
    "gpt3-2.7b": _gpt3(32, 2560, 32, 512, 1.6e-4),
    "gpt3-6.7b": _gpt3(32, 4096, 32, 1024, 1.2e-4),
    "gpt3-13b": _gpt3(40, 5120, 40, 1024, 1.0e-4),
    "gpt3-175b": _gpt3(96, 12288, 96, 1600, 0.6e-4),
    # Wang and Komatsuzaki 2021.
    "gptj-6b": Preset(_shape(28, 4096, 16, 2048, **_GPTJ)),
    # The kind of Touvron et al. 2023: one for a laptop, and SmolLM2-135M's shape (Allal et al. 2025).
    "llama-tiny": Preset(_shape(4, 256, 4, 256, n_kv_head=2, mlp_dim=704, **_LLAMA)),
    "llama-135m": Preset(_shape(30, 576, 9, 2048, n_kv_head=3, mlp_dim=1536, rotary_base=100_000.0, **_LLAMA)),
}
