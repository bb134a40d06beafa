"""Weights in and out in the layout of Hugging Face's GPT-2.

Same parts, same names but for a prefix; its linear layers ("Conv1D") store [in, out], PyTorch's [out, in]; its
embedding has the real vocabulary, ours is padded to a multiple of 64.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from model.config import GPTConfig, pad_vocab
from model.errors import ModelError
from model.gpt import GPT
from model.layers import INIT_STD

_PREFIX = "transformer."
_OUTPUT = "lm_head.weight"
_TRANSPOSED = (".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight")
_CAUSAL_MASKS = (".attn.bias", ".attn.masked_bias")  # constants that old files carry along

# A config.json that says otherwise describes a model which is not this one. These are also GPT-2's defaults.
_FIXED: dict[str, Any] = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_inner": None,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_SHAPE = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
_DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")


def to_huggingface(
    state_dict: Mapping[str, Tensor], config: GPTConfig, eot_id: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A GPT's parameters and config as what model.safetensors and config.json hold; dtypes stay as they are."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if name == "wte.weight":
            tensor = tensor[: config.real_vocab_size]
        tensors[_PREFIX + name] = (tensor.T if name.endswith(_TRANSPOSED) else tensor).contiguous()
    config_json = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "dtype": str(state_dict["wte.weight"].dtype).removeprefix("torch."),
        "vocab_size": config.real_vocab_size,
        "n_positions": config.max_seq_len,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "initializer_range": INIT_STD,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        **dict.fromkeys(_DROPOUTS, config.dropout),
        **_FIXED,
    }
    return tensors, config_json


def export(state_dict: Mapping[str, Tensor], config: GPTConfig, tokenizer_path: Path, to: Path, eot_id: int) -> None:
    """Write a folder that `transformers` loads: model.safetensors, the tokenizer, and config.json last.

    `tokenizer_path` is a tokenizer.json. Each file appears whole or not at all.
    Raises ModelError if the tokenizer is not the model's, or the folder cannot be written.
    """
    end_of_text = _end_of_text(tokenizer_path, config, eot_id)
    tensors, config_json = to_huggingface(state_dict, config, eot_id)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_seq_len,
        "clean_up_tokenization_spaces": False,
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), end_of_text),
    }
    try:
        to.mkdir(parents=True, exist_ok=True)
        _write(to / "model.safetensors", lambda path: save_file(tensors, path, metadata={"format": "pt"}))
        _write(to / "tokenizer.json", lambda path: path.write_bytes(tokenizer_path.read_bytes()))
        _write_json(to / "tokenizer_config.json", tokenizer_config)
        _write_json(to / "generation_config.json", {"bos_token_id": eot_id, "eos_token_id": eot_id})
        _write_json(to / "config.json", config_json)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the model cannot be written to {to}: {error}; give a folder that you can write") from error


def load_model(folder: Path) -> tuple[GPT, GPTConfig]:
    """A GPT with the float32 weights of a folder in Hugging Face layout, in training mode. Raises ModelError."""
    state_dict, config = from_huggingface(folder)
    with torch.device("meta"):
        model = GPT(config)
    model.load_state_dict(state_dict, assign=True)
    return model, config


def from_huggingface(folder: Path) -> tuple[dict[str, Tensor], GPTConfig]:
    """Read config.json and safetensors as a GPT's float32 state dict and its config (no checkpointing).

    Rows that pad the vocabulary are zero. Raises ModelError, naming the file, for a folder that holds something else
    than a GPT-2 or is not whole.
    """
    config_path = folder / "config.json"
    config = _read_config(config_path)
    stored = {name.removeprefix(_PREFIX): tensor for name, tensor in _read_tensors(folder).items()}
    output = stored.pop(_OUTPUT, None)
    if output is not None and not torch.equal(output, stored.get("wte.weight", output)):
        raise ModelError(f"{folder}: {_OUTPUT} differs from wte.weight; only models that tie the two can be used")
    state_dict = {
        name: (tensor.T if name.endswith(_TRANSPOSED) else tensor).float().contiguous()
        for name, tensor in stored.items()
        if not name.endswith(_CAUSAL_MASKS)
    }
    padding = config.vocab_size - config.real_vocab_size
    if "wte.weight" in state_dict:
        state_dict["wte.weight"] = F.pad(state_dict["wte.weight"], (0, 0, 0, padding))
    _check_names_and_shapes(state_dict, config, folder)
    return state_dict, config


def _read_config(path: Path) -> GPTConfig:
    values = _read_json(path)
    if values.get("model_type") != "gpt2":
        raise ModelError(f"{path}: model_type is {values.get('model_type')!r}; only gpt2 can be used")
    if values.get("n_inner") == 4 * values.get("n_embd", 0):
        values["n_inner"] = None  # the same, written out
    for name, fixed in _FIXED.items():
        if values.get(name, fixed) != fixed:
            raise ModelError(f"{path}: {name} is {values[name]!r}; only models with {fixed!r} can be used")
    absent = [name for name in _SHAPE if not isinstance(values.get(name), int)]
    if absent:
        raise ModelError(f"{path}: {absent[0]} is {values.get(absent[0])!r}; it must be a whole number")
    dropouts = {values.get(name, 0.1) for name in _DROPOUTS}
    if len(dropouts) > 1:
        raise ModelError(f"{path}: {', '.join(_DROPOUTS)} differ ({sorted(dropouts)}); set them to one value")
    return GPTConfig(
        vocab_size=pad_vocab(values["vocab_size"]),
        real_vocab_size=values["vocab_size"],
        n_layer=values["n_layer"],
        n_head=values["n_head"],
        n_embd=values["n_embd"],
        max_seq_len=values["n_positions"],
        dropout=dropouts.pop(),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; give a folder in Hugging Face layout") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds {type(values).__name__}; it must hold a JSON object")
    return values


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of model.safetensors, or of the files that model.safetensors.index.json names."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        names = sorted(set(_read_json(index).get("weight_map", {}).values()))
    tensors: dict[str, Tensor] = {}
    for path in (folder / name for name in names):
        try:
            tensors |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {error}; copy the weights again (as safetensors)") from error
    return tensors


def _check_names_and_shapes(state_dict: Mapping[str, Tensor], config: GPTConfig, folder: Path) -> None:
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in GPT(config).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ModelError(
                f"{folder}: weight {name} has shape {found.get(name, 'none')}, config.json asks for "
                f"{expected.get(name, 'none')}: the two files do not belong together"
            )


def _end_of_text(tokenizer_path: Path, config: GPTConfig, eot_id: int) -> str:
    """The text of token `eot_id`."""
    if not tokenizer_path.is_file():
        raise ModelError(f"{tokenizer_path} is no file; give the tokenizer.json that the model was trained with")
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    text, size = tokenizer.id_to_token(eot_id), tokenizer.get_vocab_size()
    if text is None or size > config.real_vocab_size:
        raise ModelError(
            f"{tokenizer_path} has {size} tokens, the model {config.real_vocab_size} with end-of-text {eot_id}: "
            "give the tokenizer.json that the model was trained with"
        )
    return text


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    _write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name, and give it its own once it is on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
