from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from model.errors import ModelError
from model.gpt import GPT
from model.lora import add_adapters, is_adapter, merge
from model.lora_settings import LoRASettings
from tests.model.shapes import build, random_tokens

SETTINGS = LoRASettings(rank=4, alpha=12.0, targets=("*.attn.*", "h.1.mlp.c_fc"))


def adapted(seed: int = 0) -> GPT:
    """A model with adapters that do something."""
    model = build(seed)
    add_adapters(model, SETTINGS)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_adapters_leave_the_model_as_it_was_until_they_are_trained() -> None:
    model, tokens = build(), random_tokens(2, 9)
    expected = model(tokens)
    add_adapters(model, SETTINGS)
    assert torch.equal(model(tokens), expected)
    names = [name for name, _ in model.named_parameters() if is_adapter(name)]
    layers = ["h.0.attn.c_attn", "h.0.attn.c_proj", "h.1.attn.c_attn", "h.1.attn.c_proj", "h.1.mlp.c_fc"]
    assert sorted(names) == sorted(
        f"{layer}.adapter.{part}" for layer in [*layers, "h.2.attn.c_attn", "h.2.attn.c_proj"] for part in "ab"
    )


def test_adapter_adds_alpha_by_rank_times_b_a_x() -> None:
    layer = adapted().h[1].mlp.c_fc
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x) - plain, 3.0 * (x @ layer.adapter.a.T @ layer.adapter.b.T))


def test_merge_gives_a_plain_model_of_the_same_logits() -> None:
    model, tokens = adapted(), random_tokens(3, 16)
    expected = model(tokens)
    assert (expected - build()(tokens)).nan_to_num(0.0).abs().max() > 0.01
    plain = build(seed=5)
    plain.load_state_dict(dict(merge(model.state_dict(), SETTINGS)))
    torch.testing.assert_close(plain(tokens), expected)


class Counted(Mapping[str, Tensor]):
    """Tells which of its tensors were asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.asked = tensors, list[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.asked.append(name)
        return self.tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_merge_reads_what_one_parameter_needs_when_it_is_asked_for() -> None:
    source = Counted(adapted().state_dict())
    merged = merge(source, SETTINGS)
    assert list(merged) == list(build().state_dict())
    assert source.asked == []
    assert merged["ln_f.weight"].shape == (32,)
    assert merged["h.0.attn.c_proj.weight"].shape == (32, 32)
    layer = "h.0.attn.c_proj"
    assert source.asked == ["ln_f.weight", f"{layer}.weight", f"{layer}.adapter.a", f"{layer}.adapter.b"]
    assert f"{layer}.adapter.a" not in merged


def test_add_adapters_by_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'c_attn' must match a linear layer .* attn\.c_attn, attn\.c_proj, mlp"):
        add_adapters(build(), LoRASettings(targets=("c_attn",)))


def test_adapters_drop_out_in_training_alone() -> None:
    model, tokens = build(), random_tokens(2, 9)
    add_adapters(model, SETTINGS.model_copy(update={"dropout": 0.5}))
    for name, parameter in model.named_parameters():
        if name.endswith("adapter.b"):
            torch.nn.init.ones_(parameter)
    torch.manual_seed(1)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
