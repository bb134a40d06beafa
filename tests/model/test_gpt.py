from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from model.config import GPTConfig
from model.errors import ModelError
from model.flops import model_flops_per_token, parameter_count
from model.gpt import GPT
from model.presets import PresetName
from model.settings import ModelSettings, resolve
from tests.model.shapes import SMALL, build, gradients, random_tokens


def unpadded(preset: PresetName) -> GPTConfig:
    return dataclasses.replace(resolve(ModelSettings(preset=preset), 50257), vocab_size=50257)


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_gpt_of_a_published_size_has_its_parameters(preset: PresetName, count: int) -> None:
    config = unpadded(preset)
    with torch.device("meta"):
        model = GPT(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert parameter_count(config) == count


def test_gpt_tiny_has_about_five_million_parameters() -> None:
    config = resolve(ModelSettings(preset="gpt2-tiny"), 8192)
    assert parameter_count(config) == sum(p.numel() for p in GPT(config).parameters()) == 5_322_240


def test_model_flops_of_a_shape_follow_the_formula() -> None:
    blocks = 3 * (12 * 32 * 32 + 13 * 32) + 2 * 32
    assert model_flops_per_token(SMALL, 16) == 6 * (blocks + 100 * 32) + 12 * 3 * 32 * 16


def test_init_follows_gpt2() -> None:
    model = build(n_layer=8, n_embd=128)
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if name.endswith("bias"):
            assert not values.any(), name
        elif "ln_" in name:
            assert (values == 1).all(), name
        else:
            std = 0.02 / math.sqrt(2 * 8) if name.endswith("c_proj.weight") else 0.02
            error = std * 5 / math.sqrt(2 * values.numel())  # five deviations of a sample's deviation
            assert values.std().item() == pytest.approx(std, abs=error), name
            assert abs(values.mean().item()) < 5 * std / math.sqrt(values.numel()), name


def test_gpt_with_the_same_seed_is_the_same() -> None:
    first, second, other = build(7).state_dict(), build(7).state_dict(), build(8).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["wte.weight"], other["wte.weight"])


def test_forward_gives_logits_with_padding_masked() -> None:
    logits = build()(random_tokens(2, 9))
    assert logits.shape == (2, 9, 128)
    assert (logits[..., 100:] == -torch.inf).all()
    assert logits[..., :100].isfinite().all()


def test_forward_with_last_only_gives_the_last_logits() -> None:
    model, tokens = build(), random_tokens(2, 9)
    torch.testing.assert_close(model(tokens, last_only=True), model(tokens)[:, -1:])


def test_forward_is_causal() -> None:
    model, tokens = build(), random_tokens(1, 10)
    changed = tokens.clone()
    changed[0, 6] = (tokens[0, 6] + 1) % 100
    before, after = model(tokens)[0, :, :100], model(changed)[0, :, :100]
    torch.testing.assert_close(before[:6], after[:6], rtol=0, atol=1e-6)
    assert ((before[6:] - after[6:]).abs().amax(dim=1) > 1e-4).all()


def test_forward_beyond_max_seq_len_is_refused() -> None:
    with pytest.raises(ModelError, match=r"17 tokens; model\.max_seq_len is 16"):
        build()(random_tokens(1, 17))


def test_loss_equals_weighted_cross_entropy_of_the_logits() -> None:
    model, tokens, labels = build(), random_tokens(3, 8), random_tokens(3, 8, seed=2)
    weights = torch.rand(3, 8)
    loss = model(tokens, labels, weights)
    each = F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), reduction="none")
    torch.testing.assert_close(loss, (each * weights.flatten()).sum())
    loss.backward()
    ours = gradients(model)
    model.zero_grad()
    (
        F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), reduction="none") * weights.flatten()
    ).sum().backward()
    for name, wanted in gradients(model).items():
        torch.testing.assert_close(ours[name], wanted, rtol=1e-4, atol=1e-6, msg=name)


def test_loss_without_weights_is_the_sum_over_tokens() -> None:
    model, tokens, labels = build(), random_tokens(2, 8), random_tokens(2, 8, seed=2)
    assert model(tokens, labels).dtype == torch.float32
    assert torch.equal(model(tokens, labels), model(tokens, labels, torch.ones(2, 8)))
    assert model(tokens, labels).item() / 16 == pytest.approx(math.log(100), abs=0.1)


def test_loss_does_not_depend_on_padding() -> None:
    padded, exact = build(), build(vocab_size=100)
    weights = padded.state_dict()
    exact.load_state_dict(weights | {"wte.weight": weights["wte.weight"][:100]})
    tokens, labels = random_tokens(2, 8), random_tokens(2, 8, seed=2)
    torch.testing.assert_close(padded(tokens, labels), exact(tokens, labels), rtol=1e-6, atol=0)


def test_dropout_acts_in_training_alone() -> None:
    model, tokens = build(dropout=0.3), random_tokens(2, 8)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
    model.config, trained = SMALL, model(tokens)
    assert torch.equal(build()(tokens), trained)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("mode", ["full", "every_2", "every_3", "selective", "full_cpu"])
def test_checkpointing_changes_neither_loss_nor_gradients(mode: str, dropout: float) -> None:
    tokens, labels = random_tokens(2, 8), random_tokens(2, 8, seed=2)
    results = []
    for activation_checkpointing in ("none", mode):
        model = build(dropout=dropout, activation_checkpointing=activation_checkpointing)
        torch.manual_seed(5)
        loss = model(tokens, labels)
        loss.backward()
        results.append((loss, gradients(model)))
    (loss, wanted), (checkpointed_loss, checkpointed) = results
    assert torch.equal(loss, checkpointed_loss)
    assert wanted.keys() == checkpointed.keys()
    assert all(torch.equal(wanted[name], checkpointed[name]) for name in wanted)


@pytest.mark.parametrize(("mode", "runs"), [("none", [1, 1, 1]), ("full", [2, 2, 2]), ("every_2", [2, 1, 2])])
def test_checkpointing_runs_its_blocks_twice(mode: str, runs: list[int]) -> None:
    model = build(activation_checkpointing=mode)
    seen = [0, 0, 0]

    def count(layer: int) -> None:
        seen[layer] += 1

    for layer, block in enumerate(model.h):
        block.attn.register_forward_hook(lambda *_, layer=layer: count(layer))
    model(random_tokens(1, 8), random_tokens(1, 8)).backward()
    assert seen == runs


def test_gpt_learns_a_batch_by_heart() -> None:
    model, tokens = build(), random_tokens(2, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(tokens[:, :-1], tokens[:, 1:]) / 30
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_gpt_in_bfloat16_trains_near_float32() -> None:
    model, half = build(), build().bfloat16()
    tokens, labels = random_tokens(2, 8), random_tokens(2, 8, seed=2)
    loss, half_loss = model(tokens, labels), half(tokens, labels)
    assert half_loss.dtype == torch.float32
    assert half_loss.item() == pytest.approx(loss.item(), rel=1e-2)
    half_loss.backward()
    loss.backward()
    wanted = gradients(model)["wte.weight"]
    assert (gradients(half)["wte.weight"] - wanted).norm() < 0.03 * wanted.norm()
