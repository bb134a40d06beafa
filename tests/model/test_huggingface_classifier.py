"""A classifier's export against `transformers`' models for sequence classification."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import GPTConfig
from model.encoder_decoder import EncoderDecoder
from model.errors import ModelError
from model.gpt import GPT
from model.huggingface_config import class_names, read_json
from model.huggingface_export import export
from model.huggingface_folder import load_model
from tests.model.byte_tokenizer import byte_tokenizer

CLASSES = ("ham", "spam", "垃圾")
SMALL = GPTConfig(vocab_size=320, real_vocab_size=300, n_layer=2, n_head=4, n_embd=32, max_seq_len=64, n_classes=3)
GPTJ = {
    **{"parallel_block": True, "positions": "rotary", "rotary_dim": 4, "rotary_pairs": "neighbours"},
    **{"qkv_bias": False, "attention_out_bias": False, "tied_head": False, "head_bias": True},
}
LLAMA = {
    **{"norm": "rms", "activation": "swiglu", "positions": "rotary", "n_kv_head": 2},
    **{"qkv_bias": False, "attention_out_bias": False, "mlp_bias": False},
}
SHAPES: dict[str, dict[str, Any]] = {
    "OpenAIGPTForSequenceClassification": {"norm_place": "after"},
    "GPT2ForSequenceClassification": {},
    "GPTJForSequenceClassification": GPTJ,
    "LlamaForSequenceClassification": LLAMA,
}


def random_model(config: GPTConfig) -> GPT:
    torch.manual_seed(5)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("architecture", SHAPES)
@torch.no_grad()
def test_exported_classifier_gives_transformers_the_same_class_logits(architecture: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = random_model(dataclasses.replace(SMALL, **SHAPES[architecture]))
    export(
        model.named_parameters(),
        model.config,
        byte_tokenizer(tmp_path / "t.json"),
        tmp_path / "out",
        0,
        classes=CLASSES,
    )
    theirs, told = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert type(theirs).__name__ == architecture
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert [theirs.config.id2label[number] for number in range(3)] == list(CLASSES)
    texts = torch.randint(1, 300, (4, 11), generator=torch.Generator().manual_seed(2))  # no end-of-text: that pads
    assert torch.allclose(theirs.eval()(texts).logits, model(texts)[:, -1], atol=1e-4)


def test_exported_classifier_without_names_has_numbered_labels(tmp_path: Path) -> None:
    model = random_model(SMALL)
    export(model.named_parameters(), SMALL, byte_tokenizer(tmp_path / "t.json"), tmp_path / "out", 0)
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    assert facts["label2id"] == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    assert facts["pad_token_id"] == 0


def test_export_of_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, n_classes=None, arch="encoder_decoder")
    model = EncoderDecoder(config)
    with pytest.raises(ModelError, match=r"no layout for this shape.*model\.arch is 'encoder_decoder'"):
        export(model.named_parameters(), config, byte_tokenizer(tmp_path / "t.json"), tmp_path / "out", 0)


@pytest.mark.parametrize("architecture", SHAPES)
@torch.no_grad()
def test_classifier_of_transformers_is_read_with_its_head_and_names(architecture: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = random_model(dataclasses.replace(SMALL, **SHAPES[architecture]))
    tokenizer = byte_tokenizer(tmp_path / "t.json")
    export(model.named_parameters(), model.config, tokenizer, tmp_path / "ours", 0, classes=CLASSES)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    theirs.score.weight.mul_(-3.0)
    theirs.save_pretrained(tmp_path / "theirs")
    read, config = load_model(tmp_path / "theirs")
    path = tmp_path / "theirs/config.json"
    assert (config.n_classes, class_names(path, read_json(path))) == (3, CLASSES)
    texts = torch.randint(1, 300, (4, 11), generator=torch.Generator().manual_seed(2))
    assert torch.allclose(theirs(texts).logits, read.eval()(texts)[:, -1], atol=1e-4)


@pytest.mark.parametrize("labels", [None, {"0": "one"}, {"1": "a", "2": "b"}])
def test_classifier_without_numbered_classes_is_refused(labels: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ModelError, match=r"config\.json: id2label is .*two or more classes.*numbered from 0"):
        class_names(path, {"architectures": ["GPT2ForSequenceClassification"], "id2label": labels})
    assert class_names(path, {"architectures": ["GPT2LMHeadModel"], "id2label": labels}) == ()
