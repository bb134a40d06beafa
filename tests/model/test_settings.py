from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from model.config import GPTConfig, checkpoint_period, pad_vocab
from model.errors import ModelError
from model.settings import ModelSettings, resolve


def test_resolve_with_preset_alone_gives_the_preset() -> None:
    assert resolve(ModelSettings(preset="gpt2-medium"), 50257) == GPTConfig(
        vocab_size=50304,
        real_vocab_size=50257,
        n_layer=24,
        n_head=16,
        n_embd=1024,
        max_seq_len=1024,
        dropout=0.1,
        activation_checkpointing="none",
    )


def test_resolve_with_overrides_gives_them() -> None:
    settings = ModelSettings(preset="gpt2", n_layer=2, n_head=3, n_embd=96, max_seq_len=64, dropout=0.0)
    config = resolve(settings, 640, "every_2")
    assert (config.n_layer, config.n_head, config.n_embd, config.max_seq_len) == (2, 3, 96, 64)
    assert (config.vocab_size, config.dropout, config.activation_checkpointing) == (640, 0.0, "every_2")


def test_settings_with_nothing_given_are_gpt2() -> None:
    assert ModelSettings().shape().n_embd == 768


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n_embd": 250, "n_head": 4}, ["model.n_embd is 250", "model.n_head = 4", "248 or 252"]),
        ({"preset": "gpt2-tiny", "n_head": 3}, ["model.n_embd is 256", "model.n_head = 3", "255 or 258"]),
        ({"n_embd": 2, "n_head": 4}, ["set model.n_embd to 4,"]),
    ],
)
def test_settings_whose_heads_do_not_divide_the_width_are_refused(values: dict[str, object], said: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelSettings.model_validate(values)
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [{"layers": 3}, {"preset": "gpt3"}, {"n_layer": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"max_seq_len": "long"}],
)
def test_settings_with_an_impossible_field_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        ModelSettings.model_validate(values)


def test_settings_module_imports_without_torch() -> None:
    code = "import sys, model.settings, model.flops, model.huggingface_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(("size", "padded"), [(1, 64), (64, 64), (65, 128), (8192, 8192), (50257, 50304)])
def test_pad_vocab_gives_the_next_multiple_of_64(size: int, padded: int) -> None:
    assert pad_vocab(size) == padded


@pytest.mark.parametrize(
    ("mode", "period"), [("none", 0), ("full", 1), ("every_1", 1), ("every_2", 2), ("every_12", 12)]
)
def test_checkpoint_period_of_a_mode_is_read(mode: str, period: int) -> None:
    assert checkpoint_period(mode) == period


@pytest.mark.parametrize("mode", ["", "all", "every_0", "every_x", "every_-2", "selective_2", "full "])
def test_checkpoint_period_of_an_unknown_mode_is_refused(mode: str) -> None:
    with pytest.raises(ModelError, match="every_2"):
        checkpoint_period(mode)


def test_is_checkpointed_with_every_2_takes_each_second_block() -> None:
    config = resolve(ModelSettings(preset="gpt2-tiny"), 64, "every_2")
    assert [config.is_checkpointed(layer) for layer in range(4)] == [True, False, True, False]


def test_config_through_dict_is_unchanged() -> None:
    config = resolve(ModelSettings(preset="gpt2-tiny"), 1000, "full")
    assert GPTConfig.from_dict(config.to_dict()) == config


def test_config_from_a_dict_that_lacks_a_field_is_refused() -> None:
    values = resolve(ModelSettings(), 1000).to_dict()
    del values["n_layer"]
    with pytest.raises(ModelError, match="n_layer"):
        GPTConfig.from_dict(values)


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_layer", 0), ("n_head", 5), ("real_vocab_size", 1025), ("dropout", 1.5), ("max_seq_len", -1)],
)
def test_config_that_no_model_can_have_is_refused(field: str, value: float) -> None:
    values = resolve(ModelSettings(preset="gpt2-tiny"), 1000).to_dict()
    with pytest.raises(ModelError):
        GPTConfig.from_dict(values | {field: value})
