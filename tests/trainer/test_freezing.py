from __future__ import annotations

from typing import Any

import pytest
import torch

from model.config import GPTConfig
from model.errors import ModelError
from model.gpt import GPT
from trainer.errors import TrainError
from trainer.freezing import check_patterns, frozen_names, lr_scales, prepare_for_tuning
from trainer.settings import TrainSettings

MODEL = GPTConfig(vocab_size=64, real_vocab_size=64, n_layer=2, n_head=2, n_embd=8, max_seq_len=8, tied_head=False)
NAMES = [name for name, _ in GPT(MODEL).named_parameters()]


def settings(**train: Any) -> TrainSettings:
    return TrainSettings.model_validate({"max_steps": 9, "global_batch_size": 4, "lr": 1.0, **train})


def trained(**train: Any) -> set[str]:
    module = GPT(MODEL)
    prepare_for_tuning(module, settings(**train), seed=1)
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_freeze_takes_what_its_patterns_name() -> None:
    assert frozen_names(NAMES, settings()) == set()
    assert frozen_names(NAMES, settings(freeze=["wte.*", "h.0.ln_?.*"])) == {
        "wte.weight",
        "h.0.ln_1.weight",
        "h.0.ln_1.bias",
        "h.0.ln_2.weight",
        "h.0.ln_2.bias",
    }
    assert trained(freeze=["h.*", "w*", "ln_f.*"]) == {"lm_head.weight"}


def test_adapters_are_trained_alone_with_what_is_named_beside_them() -> None:
    adapters = {f"h.{layer}.attn.c_attn.adapter.{part}" for layer in (0, 1) for part in "ab"}
    assert trained(lora={"rank": 2}) == adapters
    lora = {"rank": 2, "also_train": ["lm_head.*"]}
    assert trained(lora=lora, freeze=["h.0.*"]) == {name for name in adapters if "h.1" in name} | {"lm_head.weight"}


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        (
            {"freeze": ["wte"]},
            TrainError,
            r"train\.freeze: 'wte' must match .* are wte\.weight, wpe\.weight, h\.0",
        ),
        ({"freeze": ["*"]}, TrainError, r"train\.freeze: \['\*'\] leaves nothing to train"),
        ({"stages": [{"until": {"steps": 3}}, {"freeze": ["h.2.*"]}]}, TrainError, r"'h\.2\.\*' must match"),
        (
            {"lora": {"targets": ["attn"]}},
            ModelError,
            r"lora\.targets: 'attn' .* attn\.c_attn, attn\.c_proj, mlp",
        ),
    ],
)
def test_patterns_that_match_nothing_are_refused_before_the_start(
    train: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_patterns(MODEL, settings(**train))


def test_patterns_that_match_are_taken_and_the_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    check_patterns(MODEL, settings(freeze=["wte.*"], stages=[{"until": {"steps": 3}}, {"freeze": []}]))
    assert torch.rand(1) == expected


def test_layer_decay_falls_from_the_head_to_the_embeddings() -> None:
    scales = dict(zip(NAMES, lr_scales(NAMES, settings(layer_decay=0.5)), strict=True))
    assert scales["lm_head.weight"] == scales["ln_f.weight"] == 1.0
    assert {scales[name] for name in NAMES if name.startswith("h.1.")} == {0.5}
    assert {scales[name] for name in NAMES if name.startswith("h.0.")} == {0.25}
    assert scales["wte.weight"] == scales["wpe.weight"] == 0.125
    assert set(lr_scales(NAMES, settings())) == {1.0}
