"""config.json of Hugging Face's layout, as a model's shape and back. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.config import INIT_STD, GPTConfig, pad_vocab
from model.errors import ModelError
from model.huggingface_layout import LAYOUTS, architecture_of, model_type_of

READABLE = (*LAYOUTS, "mistral")
_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
_CLASSIFIER, _FEWEST_CLASSES = "ForSequenceClassification", 2
_DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
_DEFAULT_DROPOUT = {"gpt2": 0.1, "openai-gpt": 0.1, "gptj": 0.0}


class _Fields:
    """The values of a config.json, and errors that name the file and the field."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self._path, self._values = path, values

    def get(self, name: str, default: Any = None) -> Any:
        """The value; the default, which is that of `transformers`, where it is absent or null."""
        value = self._values.get(name)
        return default if value is None else value

    def has(self, name: str) -> bool:
        """Whether it is there, null or not."""
        return name in self._values

    def whole(self, name: str, default: int | None = None) -> int:
        value = self.get(name, default)
        if not isinstance(value, int):
            raise ModelError(f"{self._path}: {name} is {value!r}; it must be a whole number")
        return value

    def one_of(self, name: str, choices: Mapping[str, str], default: str) -> str:
        """What a choice is called here."""
        value = self.get(name, default)
        if value not in choices:
            raise self.refusal(name, value, " or ".join(choices))
        return choices[value]

    def fixed(self, *allowed: Any, **fields: Any) -> None:
        """Refuse a field (given as name=default) that is none of the allowed values, or of its default."""
        for name, default in fields.items():
            value = self.get(name, default)
            if value != default and value not in allowed:
                raise self.refusal(name, value, repr(default))

    def refusal(self, name: str, value: object, usable: str) -> ModelError:
        return ModelError(f"{self._path}: {name} is {value!r}; only models with {usable} can be used")


def read_folder_config(folder: Path) -> tuple[str, GPTConfig]:
    """The layout's name and the model's shape that a folder's config.json speaks of. Raises ModelError."""
    path = folder / "config.json"
    return read_config(path, read_json(path))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; give a folder in Hugging Face layout") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds {type(values).__name__}; it must hold a JSON object")
    return values


def read_config(path: Path, values: Mapping[str, Any]) -> tuple[str, GPTConfig]:
    """The model's type, one of LAYOUTS, and its shape, from what config.json at `path` holds.

    Raises ModelError, naming file and field, for what a GPT cannot be.
    """
    fields = _Fields(path, values)
    model_type = fields.get("model_type")
    if model_type not in READABLE:
        raise ModelError(f"{path}: model_type is {model_type!r}; only {', '.join(READABLE)} can be used")
    shape = _gpt_shape(fields, model_type) if model_type in _DEFAULT_DROPOUT else _llama_shape(fields, model_type)
    vocab_size = fields.whole("vocab_size")
    layout = "llama" if model_type == "mistral" else model_type
    shape["n_classes"] = len(class_names(path, values)) or None
    return layout, GPTConfig(vocab_size=pad_vocab(vocab_size), real_vocab_size=vocab_size, **shape)


def class_names(path: Path, values: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a classifier's classes, by number, from what config.json at `path` holds; of others none.

    Raises ModelError where a classifier's file does not number them from 0 on.
    """
    architecture = str((values.get("architectures") or [""])[0])
    if not architecture.endswith(_CLASSIFIER):
        return ()
    labels = values.get("id2label")
    names = {str(number): name for number, name in labels.items()} if isinstance(labels, dict) else {}
    if len(names) < _FEWEST_CLASSES or names.keys() != {str(number) for number in range(len(names))}:
        raise ModelError(
            f"{path}: id2label is {labels!r}; a classifier must have two or more classes there, numbered from 0 on"
        )
    return tuple(str(names[str(number)]) for number in range(len(names)))


def _gpt_shape(fields: _Fields, model_type: str) -> dict[str, Any]:
    """GPT-1's, GPT-2's and GPT-J's fields."""
    fields.fixed(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    n_embd = fields.whole("n_embd")
    common = {
        "n_layer": fields.whole("n_layer"),
        "n_head": fields.whole("n_head"),
        "n_embd": n_embd,
        "max_seq_len": fields.whole("n_positions"),
        "norm_eps": float(fields.get("layer_norm_epsilon", 1e-5)),
        "dropout": _dropout(fields, _DEFAULT_DROPOUT[model_type]),
        "tied_head": bool(fields.get("tie_word_embeddings", model_type != "gptj")),
        **LAYOUTS[model_type].fixed,
    }
    if model_type == "openai-gpt":
        fields.one_of("afn", {"gelu": "gelu_tanh"}, "gelu")
        return common
    common["activation"] = fields.one_of("activation_function", _ACTIVATIONS, "gelu_new")
    mlp_dim = fields.whole("n_inner", 4 * n_embd)
    common["mlp_dim"] = None if mlp_dim == 4 * n_embd else mlp_dim
    if model_type == "gpt2":
        return common
    return {**common, "rotary_dim": fields.whole("rotary_dim"), "qkv_bias": False, "attention_out_bias": False}


def _dropout(fields: _Fields, default: float) -> float:
    dropouts = {float(fields.get(name, default)) for name in _DROPOUTS}
    if len(dropouts) > 1:
        raise fields.refusal(", ".join(_DROPOUTS), sorted(dropouts), "one value for the three")
    return dropouts.pop()


def _llama_shape(fields: _Fields, model_type: str) -> dict[str, Any]:
    """Llama's, Qwen's and Mistral's fields."""
    n_embd, n_head = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    head_dim = fields.whole("head_dim", 128 if model_type == "qwen3" else n_embd // max(n_head, 1))
    kv_heads, mlp_dim = fields.whole("num_key_value_heads", n_head), fields.whole("intermediate_size")
    fields.one_of("hidden_act", {"silu": "swiglu"}, "silu")
    fields.fixed(attention_dropout=0.0, pretraining_tp=1)
    _refuse_windows(fields, model_type)
    qkv_bias, out_bias, mlp_bias = _biases(fields, model_type)
    layout = LAYOUTS["llama" if model_type == "mistral" else model_type]
    return {
        "n_layer": fields.whole("num_hidden_layers"),
        "n_head": n_head,
        "n_embd": n_embd,
        "max_seq_len": fields.whole("max_position_embeddings"),
        "n_kv_head": None if kv_heads == n_head else kv_heads,
        "head_dim": None if head_dim * n_head == n_embd else head_dim,
        "mlp_dim": None if mlp_dim == 4 * n_embd else mlp_dim,
        "norm_eps": float(fields.get("rms_norm_eps", 1e-6)),
        "rotary_base": _rotary_base(fields),
        "qkv_bias": qkv_bias,
        "attention_out_bias": out_bias,
        "mlp_bias": mlp_bias,
        "tied_head": bool(fields.get("tie_word_embeddings", False)),
        **layout.fixed,
    }


def _biases(fields: _Fields, model_type: str) -> tuple[bool, bool, bool]:
    """Of queries to values, of attention's output, of the MLP."""
    if model_type == "qwen2":
        return True, False, False
    attention = model_type != "mistral" and bool(fields.get("attention_bias", False))
    return attention, attention, model_type == "llama" and bool(fields.get("mlp_bias", False))


def _refuse_windows(fields: _Fields, model_type: str) -> None:
    """Attention here sees all tokens before; a window at least as long as every text is the same."""
    fields.fixed(use_sliding_window=False)
    kinds = set(fields.get("layer_types", ())) - {"full_attention"}
    if kinds:
        raise fields.refusal("layer_types", sorted(kinds), "'full_attention' in every block")
    if model_type != "mistral":
        return
    window = fields.get("sliding_window") if fields.has("sliding_window") else 4096
    if window is not None and window < fields.whole("max_position_embeddings"):
        raise fields.refusal("sliding_window", window, "null, or at least max_position_embeddings,")


def _rotary_base(fields: _Fields) -> float:
    """Of `rope_parameters`, or as older files have it of `rope_theta`; scaled positions are refused."""
    name = "rope_parameters" if fields.get("rope_parameters") else "rope_scaling"
    given = fields.get(name) or {}
    is_plain = isinstance(given, dict) and not any(isinstance(value, dict) for value in given.values())
    if not is_plain or given.get("rope_type", given.get("type", "default")) != "default":
        raise fields.refusal(name, given, "a rope_type of default")
    turned = given.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0))
    if turned != 1.0:
        raise fields.refusal("partial_rotary_factor", turned, "1.0")
    return float(given.get("rope_theta") or fields.get("rope_theta", 10_000.0))


def config_json(config: GPTConfig, eot_id: int, dtype: str, classes: Sequence[str] = ()) -> dict[str, Any]:
    """What config.json says of a model; `dtype` as torch calls it; classes: a classifier's, by number.

    Raises ModelError for a shape without a layout.
    """
    model_type = model_type_of(config)
    return {
        "architectures": [architecture_of(LAYOUTS[model_type], config)],
        "model_type": model_type,
        "dtype": dtype,
        "vocab_size": config.real_vocab_size,
        "tie_word_embeddings": config.tied_head,
        "initializer_range": INIT_STD,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        **(_gpt_json(config, model_type) if model_type in _DEFAULT_DROPOUT else _llama_json(config)),
        **_classes_json(config, eot_id, classes),
    }


def _classes_json(config: GPTConfig, eot_id: int, classes: Sequence[str]) -> dict[str, Any]:
    """Nothing but for a classifier, whose texts are padded with end-of-text tokens."""
    if config.n_classes is None:
        return {}
    names = dict(enumerate(classes or [f"LABEL_{number}" for number in range(config.n_classes)]))
    return {
        "id2label": {str(number): name for number, name in names.items()},
        "label2id": {name: number for number, name in names.items()},
        "pad_token_id": eot_id,
    }


def _gpt_json(config: GPTConfig, model_type: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "n_positions": config.max_seq_len,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "layer_norm_epsilon": config.norm_eps,
        **dict.fromkeys(_DROPOUTS, config.dropout),
    }
    if model_type == "openai-gpt":
        return {**values, "afn": "gelu"}  # which is the tanh approximation there
    values["activation_function"] = "gelu_new" if config.activation == "gelu_tanh" else "gelu"
    values["n_inner"] = config.mlp_dim
    if model_type == "gptj":
        return {**values, "rotary_dim": config.rotary_width}
    fixed = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
    return {**values, **fixed}


def _llama_json(config: GPTConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.n_embd,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rotary_base,  # read by versions of transformers before 5
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base},
        "attention_bias": config.attention_out_bias,
        "attention_dropout": 0.0,
        "mlp_bias": config.mlp_bias,
        "use_sliding_window": False,
    }
