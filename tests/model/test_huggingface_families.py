"""Every family of models that Hugging Face's layout holds, against `transformers`, in both directions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.cache import KeyValueCache
from model.config import GPTConfig
from model.errors import ModelError
from model.gpt import GPT
from model.huggingface_export import export
from model.huggingface_folder import _open_files, load_model
from tests.model.byte_tokenizer import byte_tokenizer

VOCABULARY = 130
GPT_SIZES = {"n_positions": 48, "n_embd": 24, "n_layer": 2, "n_head": 3}
LLAMA_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 48,
}
# What `transformers` builds: a name, the model's type, and fields of its config.
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai-gpt": ("openai-gpt", GPT_SIZES),
    "gpt2": ("gpt2", GPT_SIZES),
    "gpt2-untied-gelu": (
        "gpt2",
        {**GPT_SIZES, "tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 40},
    ),
    "gptj": ("gptj", {**GPT_SIZES, "rotary_dim": 4}),
    "gptj-tied": ("gptj", {**GPT_SIZES, "rotary_dim": 8, "tie_word_embeddings": True, "n_inner": 50}),
    "llama": ("llama", {**LLAMA_SIZES, "num_key_value_heads": 2}),
    "llama-biased-wide-heads": (
        "llama",
        {**LLAMA_SIZES, "attention_bias": True, "mlp_bias": True, "head_dim": 12, "tie_word_embeddings": True},
    ),
    "llama-other-base": ("llama", {**LLAMA_SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "qwen2": ("qwen2", {**LLAMA_SIZES, "num_key_value_heads": 1}),
    "qwen3": ("qwen3", {**LLAMA_SIZES, "num_key_value_heads": 2, "head_dim": 16}),
    "mistral": ("mistral", {**LLAMA_SIZES, "num_key_value_heads": 2, "sliding_window": None}),
}
SMALL = GPTConfig(vocab_size=320, real_vocab_size=300, n_layer=2, n_head=4, n_embd=32, max_seq_len=64)
GPTJ = {
    "parallel_block": True,
    "positions": "rotary",
    "rotary_dim": 4,
    "rotary_pairs": "neighbours",
    "qkv_bias": False,
    "attention_out_bias": False,
    "tied_head": False,
    "head_bias": True,
}
LLAMA = {
    "activation": "swiglu",
    "norm": "rms",
    "positions": "rotary",
    "n_kv_head": 2,
    "mlp_dim": 48,
    "rotary_base": 5000.0,
    "qkv_bias": False,
    "attention_out_bias": False,
    "mlp_bias": False,
}
# What we build: the model's type that it becomes, and fields of its shape.
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai-gpt": ("openai-gpt", {"norm_place": "after", "dropout": 0.1}),
    "gpt2": ("gpt2", {"dropout": 0.1}),
    "gpt2-untied-gelu": ("gpt2", {"tied_head": False, "activation": "gelu", "mlp_dim": 72, "norm_eps": 1e-3}),
    "gptj": ("gptj", GPTJ),
    "gptj-tied": ("gptj", {**GPTJ, "tied_head": True, "rotary_dim": None}),
    "llama": ("llama", LLAMA),
    "llama-biased-untied": (
        "llama",
        {**LLAMA, "qkv_bias": True, "attention_out_bias": True, "mlp_bias": True, "tied_head": False, "head_dim": 6},
    ),
    "qwen2": ("qwen2", {**LLAMA, "qkv_bias": True}),
    "qwen3": ("qwen3", {**LLAMA, "qk_norm": True, "head_dim": 12, "tied_head": False}),
}


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def theirs(model_type: str, **fields: Any) -> Any:
    """A `transformers` model, every parameter random, and large enough for logits of order one."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    shape = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, **fields}
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(model_type, **shape))
    return randomized(model)


def randomized(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def random_ids(vocabulary: int, length: int) -> Tensor:
    return torch.randint(vocabulary, (2, length), generator=torch.Generator().manual_seed(5))


def greedy(model: GPT, ids: Tensor, tokens: int) -> Tensor:
    """The likeliest next token, again and again, with a cache."""
    cache = KeyValueCache(model.config, len(ids), ids.shape[1] + tokens)
    fed = ids
    for _ in range(tokens):
        fed = model(fed, last_only=True, cache=cache)[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat((ids, fed), dim=1)
    return ids


@torch.no_grad()
def assert_same(ours: GPT, other: Any) -> None:
    """Logits within 1e-4, and the same greedy tokens."""
    vocabulary = ours.config.real_vocab_size
    ids = random_ids(vocabulary, 40)
    wanted = other.eval()(ids).logits
    assert 0.1 < wanted.abs().mean() < 100
    torch.testing.assert_close(ours.eval()(ids)[..., :vocabulary], wanted, rtol=0, atol=1e-4)
    other.generation_config.eos_token_id = None
    prompt = ids[:, :9]
    continued = other.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=30, pad_token_id=0
    )
    assert greedy(ours, prompt, 30).tolist() == continued.tolist()


@pytest.mark.parametrize("name", THEIRS)
def test_weights_that_transformers_saved_give_its_logits_and_tokens(name: str, tmp_path: Path) -> None:
    model_type, fields = THEIRS[name]
    other = theirs(model_type, **fields)
    other.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours, config = load_model(tmp_path)
    assert (config.real_vocab_size, config.vocab_size, config.max_seq_len) == (VOCABULARY, 192, 48)
    assert not ours.wte.weight[VOCABULARY:].any()
    assert_same(ours, other)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("files", ["one", "many"])
def test_export_is_loaded_by_transformers_with_our_logits_and_tokens(
    name: str, files: str, tokenizer_path: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    model_type, fields = OURS[name]
    config = dataclasses.replace(SMALL, **fields)
    torch.manual_seed(11)
    ours: GPT = randomized(GPT(config))
    most = 20_000 if files == "many" else 10**9
    export(ours.named_parameters(), config, tokenizer_path, tmp_path, eot_id=0, max_file_bytes=most)
    assert (tmp_path / "model.safetensors.index.json").exists() is (files == "many")
    other, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert other.config.model_type == model_type
    assert other.config.eos_token_id == other.generation_config.eos_token_id == 0
    assert_same(ours, other)
    back, read = load_model(tmp_path)
    assert normalised(read) == normalised(config)
    for parameter, value in ours.named_parameters():
        rows = slice(config.real_vocab_size if parameter in ("wte.weight", "lm_head.weight", "head_bias") else None)
        assert torch.equal(back.get_parameter(parameter)[rows], value[rows]), parameter


def normalised(config: GPTConfig) -> dict[str, Any]:
    """What a folder can hold: no dropout where attention alone would have it, and what is None written out."""
    widths = {"n_kv_head": config.kv_heads, "head_dim": config.head_width, "mlp_dim": config.mlp_width}
    rotary = config.rotary_width if config.positions == "rotary" else None
    pairs = {"rotary_dim": rotary} if rotary else {"rotary_dim": None, "rotary_base": None, "rotary_pairs": None}
    dropout = config.dropout if config.positions == "learned" else None
    return {**config.to_dict(), **widths, **pairs, "dropout": dropout}


def test_tokenizer_of_an_export_is_the_one_that_was_given(tokenizer_path: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export(GPT(SMALL).named_parameters(), SMALL, tokenizer_path, tmp_path, eot_id=0)
    text = "The headrace feeds the wheel. 水渠推动水车。\n\ndef wheel(): return 'water'  # 42\n"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(text)["input_ids"]
    assert ids == Tokenizer.from_file(str(tokenizer_path)).encode(text).ids
    assert tokenizer.decode(ids) == text
    assert (tokenizer.eos_token, tokenizer.eos_token_id, len(tokenizer)) == ("<|endoftext|>", 0, 300)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": None}, "rope_scaling is"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_parameters is"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters is"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("llama", {"attention_dropout": 0.1}, "attention_dropout is 0.1"),
        ("llama", {"num_hidden_layers": None}, "num_hidden_layers is None"),
        ("llama", {"num_key_value_heads": 3}, "model.n_kv_head is 3"),
        ("llama", {"num_key_value_heads": 4}, "k_proj.weight has shape"),
        ("llama", {"tie_word_embeddings": True}, "lm_head.weight differs"),
        ("mistral", {"sliding_window": 16}, "sliding_window is 16"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is"),
        ("gptj", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("gptj", {"rotary_dim": None}, "rotary_dim is None"),
        ("gptj", {"rotary_dim": 5}, "model.rotary_dim is 5"),
        ("openai-gpt", {"afn": "silu"}, "afn is 'silu'"),
        ("gpt2", {"model_type": "gpt_neox"}, "model_type is 'gpt_neox'; only gpt2, openai-gpt, gptj, llama"),
    ],
)
def test_what_a_gpt_cannot_be_is_refused_by_the_name_of_its_field(
    name: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    model_type, fields = THEIRS[name]
    theirs(model_type, **fields).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=said):
        load_model(tmp_path)


def test_mistral_without_a_word_on_its_window_has_one_and_is_refused(tmp_path: Path) -> None:
    fields = {**THEIRS["mistral"][1], "max_position_embeddings": 5000}
    theirs("mistral", **fields).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    load_model(tmp_path)
    del values["sliding_window"]
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match="sliding_window is 4096"):
        load_model(tmp_path)


def test_rope_theta_of_older_files_is_read(tmp_path: Path) -> None:
    other = theirs("llama", **LLAMA_SIZES, rope_parameters={"rope_type": "default", "rope_theta": 300.0})
    other.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["rope_parameters"]
    path.write_text(json.dumps({**values, "rope_theta": 300.0, "rope_scaling": None}))
    ours, config = load_model(tmp_path)
    assert config.rotary_base == 300.0
    assert_same(ours, other)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"qkv_bias": False}, r"nearest is gpt2, but model\.qkv_bias"),
        ({**LLAMA, "norm": "layer"}, r"nearest is llama, but model\.norm is 'layer' and there 'rms'"),
        ({**LLAMA, "rotary_dim": 4}, "rotary_dim"),
        ({"n_kv_head": 2}, "n_kv_head"),
        ({**GPTJ, "rotary_base": 500.0}, r"model\.rotary_base is 500\.0"),
    ],
)
def test_export_of_a_shape_without_a_layout_is_refused(
    fields: dict[str, Any], said: str, tokenizer_path: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, **fields)
    with pytest.raises(ModelError, match=said):
        export(GPT(config).named_parameters(), config, tokenizer_path, tmp_path / "out", eot_id=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/model.safetensors", "a/model.safetensors"])
def test_index_that_names_files_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    with pytest.raises(ModelError, match="must name files beside it"):
        list(_open_files(tmp_path))
