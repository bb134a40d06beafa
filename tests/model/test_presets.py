from __future__ import annotations

import dataclasses
import typing

import pytest
import torch

from model.flops import parameter_count
from model.gpt import GPT
from model.presets import PRESETS, PresetName
from model.settings import ModelSettings, resolve, settings_of

# Vocabulary as published, and all parameters: of the published weights, but for GPT-3, of which there are none, and
# the tiny ones. A GPT-3 of L blocks, C wide, with V tokens has L (12 C^2 + 13 C) + 2 C + (V + 2048) C.
COUNTS = {
    "gpt1": (40478, 116_534_784),
    "gpt2-tiny": (8192, 5_322_240),
    "gpt2": (50257, 124_439_808),
    "gpt2-medium": (50257, 354_823_168),
    "gpt2-large": (50257, 774_030_080),
    "gpt2-xl": (50257, 1_557_611_200),
    "gpt3-125m": (50257, 125_226_240),
    "gpt3-350m": (50257, 355_871_744),
    "gpt3-760m": (50257, 760_300_032),
    "gpt3-1.3b": (50257, 1_315_723_264),
    "gpt3-2.7b": (50257, 2_651_553_280),
    "gpt3-6.7b": (50257, 6_658_404_352),
    "gpt3-13b": (50257, 12_853_386_240),
    "gpt3-175b": (50257, 174_604_259_328),
    "gptj-6b": (50400, 6_050_882_784),
    "llama-tiny": (8192, 5_048_576),
    "llama-135m": (49152, 134_515_008),
}
# Brown et al. 2020, table D.1, "total params", which has three digits.
PUBLISHED = {
    "gpt3-125m": 1.25e8,
    "gpt3-350m": 3.56e8,
    "gpt3-760m": 7.60e8,
    "gpt3-1.3b": 1.32e9,
    "gpt3-2.7b": 2.65e9,
    "gpt3-6.7b": 6.66e9,
    "gpt3-13b": 1.29e10,
    "gpt3-175b": 1.75e11,
}
# The same, table 2.1: batch in tokens, learning rate.
TRAINED = {
    "gpt3-125m": (0.5e6, 6.0e-4),
    "gpt3-350m": (0.5e6, 3.0e-4),
    "gpt3-760m": (0.5e6, 2.5e-4),
    "gpt3-1.3b": (1e6, 2.0e-4),
    "gpt3-2.7b": (1e6, 1.6e-4),
    "gpt3-6.7b": (2e6, 1.2e-4),
    "gpt3-13b": (2e6, 1.0e-4),
    "gpt3-175b": (3.2e6, 0.6e-4),
}


def test_presets_are_those_that_a_run_file_may_name() -> None:
    assert set(PRESETS) == set(typing.get_args(PresetName)) == set(COUNTS)


@pytest.mark.parametrize(("preset", "vocab_size", "count"), [(name, *counts) for name, counts in COUNTS.items()])
def test_preset_on_the_meta_device_has_the_published_parameters(
    preset: PresetName, vocab_size: int, count: int
) -> None:
    config = dataclasses.replace(resolve(ModelSettings(preset=preset), vocab_size), vocab_size=vocab_size)
    with torch.device("meta"):
        model = GPT(config)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert sum(parameter.numel() for parameter in model.parameters()) == parameter_count(config) == count
    if preset in PUBLISHED:
        assert float(f"{count:.2e}") == PUBLISHED[preset]


def test_preset_with_published_training_has_its_batch_and_rate() -> None:
    known = {name: preset for name, preset in PRESETS.items() if preset.lr is not None}
    assert known.keys() == TRAINED.keys()
    for name, preset in known.items():
        tokens, rate = TRAINED[name]
        assert preset.lr == rate
        assert preset.batch_tokens == pytest.approx(tokens, rel=0.05)
        sequences = preset.batch_sequences(2048)
        assert sequences is not None and sequences * 2048 == preset.batch_tokens
    assert PRESETS["gpt2"].batch_sequences(1024) is None
    assert PRESETS["gpt3-125m"].batch_sequences(10**9) == 1


@pytest.mark.parametrize("preset", typing.get_args(PresetName))
def test_settings_of_a_preset_resolve_to_it_without_its_name(preset: PresetName) -> None:
    config = resolve(ModelSettings(preset=preset), 1000)
    assert resolve(ModelSettings.model_validate(settings_of(config)), 1000) == config
