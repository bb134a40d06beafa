"""Which tensors of a folder in Hugging Face's layout hold which of a GPT's parameters.

Each layout is plain data: the kind of model that it can hold, and the names of its parts. GPT-1's and GPT-2's linear
layers ("Conv1D") are stored [in, out], PyTorch's are [out, in]. GPT-J, Llama and Qwen store queries, keys and values
as three matrices, which are rows of our one. No layout has the rows that pad our vocabulary. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.config import GPTConfig
from model.errors import ModelError

VOCABULARY_PARAMETERS = ("wte.weight", "lm_head.weight", "head_bias")
"""Those of our parameters that have a row for each token."""

_GPT_BLOCK = {name: (name,) for name in ("ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
_GPTJ_BLOCK = {
    "ln_1": ("ln_1",),
    "attn.c_attn": ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    "attn.c_proj": ("attn.out_proj",),
    "mlp.c_fc": ("mlp.fc_in",),
    "mlp.c_proj": ("mlp.fc_out",),
}
_LLAMA_BLOCK = {
    "ln_1": ("input_layernorm",),
    "ln_2": ("post_attention_layernorm",),
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "attn.q_norm": ("self_attn.q_norm",),
    "attn.k_norm": ("self_attn.k_norm",),
    "mlp.c_gate": ("mlp.gate_proj",),
    "mlp.c_fc": ("mlp.up_proj",),
    "mlp.c_proj": ("mlp.down_proj",),
}
_GPT = {"norm": "layer", "parallel_block": False, "positions": "learned", "qk_norm": False, "head_bias": False}
_LLAMA = {
    "norm": "rms",
    "norm_place": "before",
    "parallel_block": False,
    "positions": "rotary",
    "rotary_pairs": "halves",
    "activation": "swiglu",
    "head_bias": False,
}


@dataclass(frozen=True)
class Layout:
    """A kind of model. `fixed`: fields of its `GPTConfig`, `biases`: of queries to values, of attention's output, of
    the MLP, as it may have them. `stem`: before all names but the head's, `blocks`: before a block's number."""

    architecture: str
    stem: str
    blocks: str
    top: Mapping[str, str]
    block: Mapping[str, tuple[str, ...]]
    fixed: Mapping[str, Any]
    biases: tuple[tuple[bool, bool, bool], ...]
    is_transposed: bool = False
    has_plain_heads: bool = True  # as many of keys as of queries, together as wide as the residual stream


def _llama(architecture: str, qk_norm: bool, *biases: tuple[bool, bool, bool]) -> Layout:
    return Layout(
        architecture,
        stem="model.",
        blocks="layers",
        top={"wte": "embed_tokens", "ln_f": "norm"},
        block=_LLAMA_BLOCK,
        fixed={**_LLAMA, "qk_norm": qk_norm},
        biases=biases,
        has_plain_heads=False,
    )


LAYOUTS: dict[str, Layout] = {
    "gpt2": Layout(
        "GPT2LMHeadModel",
        stem="transformer.",
        blocks="h",
        top={"wte": "wte", "wpe": "wpe", "ln_f": "ln_f"},
        block=_GPT_BLOCK,
        fixed={**_GPT, "norm_place": "before"},
        biases=((True, True, True),),
        is_transposed=True,
    ),
    "openai-gpt": Layout(
        "OpenAIGPTLMHeadModel",
        stem="transformer.",
        blocks="h",
        top={"wte": "tokens_embed", "wpe": "positions_embed"},
        block=_GPT_BLOCK,
        fixed={**_GPT, "norm_place": "after", "activation": "gelu_tanh"},
        biases=((True, True, True),),
        is_transposed=True,
    ),
    "gptj": Layout(
        "GPTJForCausalLM",
        stem="transformer.",
        blocks="h",
        top={"wte": "wte", "ln_f": "ln_f"},
        block=_GPTJ_BLOCK,
        fixed={
            "norm": "layer",
            "parallel_block": True,
            "positions": "rotary",
            "rotary_pairs": "neighbours",
            "rotary_base": 10_000.0,
            "qk_norm": False,
            "head_bias": True,
        },
        biases=((False, False, True),),
    ),
    "llama": _llama(
        "LlamaForCausalLM",
        False,
        *((attention, attention, mlp) for attention in (False, True) for mlp in (False, True)),
    ),
    "qwen2": _llama("Qwen2ForCausalLM", False, (True, False, False)),
    "qwen3": _llama("Qwen3ForCausalLM", True, (False, False, False), (True, True, False)),
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a folder: rows [start, stop) of one of our parameters, as [in, out] where it `is_transposed`."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    is_transposed: bool = False


def model_type_of(config: GPTConfig) -> str:
    """The first layout that can hold a model of this shape. Raises ModelError, with the fields in the way, if none."""
    obstacles = {model_type: _obstacles(layout, config) for model_type, layout in LAYOUTS.items()}
    nearest = min(obstacles, key=lambda model_type: len(obstacles[model_type]))
    if obstacles[nearest]:
        raise ModelError(
            f"Hugging Face has no layout for this shape of model; nearest is {nearest}, but "
            f"{'; '.join(obstacles[nearest])}. Train with these fields as said to export the model"
        )
    return nearest


def architecture_of(layout: Layout, config: GPTConfig) -> str:
    """Hugging Face's class for a model of this shape, which the layout can hold."""
    if config.n_classes is None:
        return layout.architecture
    stem = layout.architecture.removesuffix("LMHeadModel").removesuffix("ForCausalLM")
    return f"{stem}ForSequenceClassification"


def _obstacles(layout: Layout, config: GPTConfig) -> list[str]:
    """What keeps the layout from holding such a model."""
    said = [
        f"model.{name} is {getattr(config, name)!r} and there {value!r}"
        for name, value in layout.fixed.items()
        if getattr(config, name) != value
    ]
    if config.arch != "decoder":
        said.append(f"model.arch is {config.arch!r} and there 'decoder'")
    biases = config.qkv_bias, config.attention_out_bias, config.mlp_bias
    if biases not in layout.biases:
        names = "model.qkv_bias, attention_out_bias, mlp_bias"
        said.append(f"{names} are {biases} and there {' or '.join(map(str, layout.biases))}")
    inner = config.n_head * config.head_width
    if layout.has_plain_heads and (config.kv_heads != config.n_head or inner != config.n_embd):
        said.append("model.n_kv_head and head_dim are not what follows from n_head and n_embd")
    if layout.block is _LLAMA_BLOCK and (config.rotary_width != config.head_width or config.n_embd % config.n_head):
        said.append("model.rotary_dim is not the channels of a head, or n_head does not divide n_embd")
    if layout.block is not _LLAMA_BLOCK and config.activation == "swiglu":
        said.append("model.activation is 'swiglu' and there 'gelu_tanh'")
    if layout.architecture == "OpenAIGPTLMHeadModel" and config.mlp_width != 4 * config.n_embd:
        said.append("model.mlp_dim is not 4 n_embd")
    return said


def stored_tensors(
    layout: Layout, config: GPTConfig, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[Stored, ...]]:
    """For each of our parameters, whose shapes are given, the tensors of the folder that hold it, rows in order."""
    return {name: _stored(layout, config, name, shape) for name, shape in shapes.items()}


def _stored(layout: Layout, config: GPTConfig, name: str, shape: tuple[int, ...]) -> tuple[Stored, ...]:
    if name in VOCABULARY_PARAMETERS:
        shape = (config.real_vocab_size, *shape[1:])
    is_transposed = layout.is_transposed and name.startswith("h.") and len(shape) == 2
    stored, start = [], 0
    names = _names(layout, name)
    for part, rows in zip(names, _rows(config, shape[0], len(names)), strict=True):
        kept = (rows, *shape[1:])
        stored.append(Stored(part, start, start + rows, kept[::-1] if is_transposed else kept, is_transposed))
        start += rows
    return tuple(stored)


def _rows(config: GPTConfig, rows: int, parts: int) -> tuple[int, ...]:
    """Rows of each stored tensor: all, or those of queries, keys and values."""
    if parts == 1:
        return (rows,)
    keys = config.kv_heads * config.head_width
    return config.n_head * config.head_width, keys, keys


def _names(layout: Layout, name: str) -> tuple[str, ...]:
    """Names in the folder of the tensors that hold one of our parameters."""
    if name in ("lm_head.weight", "head_bias", "score.weight"):
        return ("lm_head.bias" if name == "head_bias" else name,)
    module, _, kind = name.rpartition(".")
    if not module.startswith("h."):
        return (f"{layout.stem}{layout.top[module]}.{kind}",)
    _, number, inner = module.split(".", 2)
    return tuple(f"{layout.stem}{layout.blocks}.{number}.{part}.{kind}" for part in layout.block[inner])
