"""Muon by itself: its formula against torch's, and what it is put on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import GPTConfig
from model.gpt import GPT
from trainer.errors import TrainError
from trainer.muon import Muon, orthogonalized, update_scale
from trainer.optimizer import attention_blocks, build_optimizer, muon_shapes, parameter_groups
from trainer.settings import OptimizerSettings, TrainSettings
from trainer.slots import Master, Slot

SHAPES = {"wide": (6, 15), "tall": (20, 4), "square": (7, 7)}


def train_settings(**optimizer: Any) -> TrainSettings:
    return TrainSettings.model_validate({"max_steps": 1, "global_batch_size": 1, "lr": 0.02, "optimizer": optimizer})


def gpt() -> GPT:
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "real_vocab_size": 64, "n_layer": 1, "n_head": 4, "n_kv_head": 2, "n_embd": 16}
    return GPT(GPTConfig(**shape, max_seq_len=8, tied_head=False))  # type: ignore[arg-type]


def matrices(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def muon(settings: OptimizerSettings, parameters: dict[str, nn.Parameter]) -> Muon:
    """On whole matrices, told where they lie and with its state made, as `prepare_optimizer` does."""
    groups = [{"params": list(parameters.values()), "weight_decay": settings.weight_decay, "muon": True}]
    optimizer = Muon(groups, 0.02, settings, SHAPES, {})
    slots = {name: Slot(name, 0, parameter.numel(), parameter, 0, 0) for name, parameter in parameters.items()}
    optimizer.bind([Master(slot.master, (name,), (slot,)) for name, slot in slots.items()])
    for parameter in parameters.values():
        optimizer.state[parameter] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
    return optimizer


@pytest.mark.parametrize("adjust_lr", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_gives_torchs_weights(nesterov: bool, adjust_lr: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit in torch's bf16, but for the order in which rate, scale and update are multiplied."""
    monkeypatch.setattr("trainer.muon.orthogonalized", lambda x, steps, _: orthogonalized(x, steps, torch.bfloat16))
    settings = OptimizerSettings.model_validate(
        {"name": "muon", "nesterov": nesterov, "adjust_lr": adjust_lr, "momentum": 0.9, "ns_steps": 4}
    )
    ours, theirs = ({name: nn.Parameter(value) for name, value in matrices(0).items()} for _ in range(2))
    kept = {"weight_decay": settings.weight_decay, "momentum": 0.9, "nesterov": nesterov, "ns_steps": 4}
    one, other = muon(settings, ours), torch.optim.Muon(theirs.values(), lr=0.02, adjust_lr_fn=adjust_lr, **kept)
    for seed in range(1, 5):
        for name, gradient in matrices(seed).items():
            ours[name].grad, theirs[name].grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    for name, parameter in ours.items():
        assert (parameter - matrices(0)[name]).abs().max() > 0.01
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES.values())
def test_orthogonalized_has_the_matrixs_directions_and_singular_values_near_1(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 1e-3
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalized(matrix, 5, torch.float64)
    core = u.T @ result @ vt.T
    assert torch.allclose(core, torch.diag(core.diagonal()), atol=1e-12)
    assert s.max() / s.min() < 30
    assert 0.6 < core.diagonal().min() < core.diagonal().max() < 1.3


def test_update_scale_makes_an_orthogonal_matrix_as_large_as_adamws_updates() -> None:
    q, _ = torch.linalg.qr(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))
    assert (q * update_scale(64, 16, "match_rms_adamw")).square().mean().sqrt() == pytest.approx(0.2, rel=1e-5)
    assert update_scale(64, 16, "original") == 2.0
    assert update_scale(16, 64, "original") == 1.0


def test_muon_takes_the_blocks_matrices_and_adamw_the_rest() -> None:
    model = gpt()
    assert muon_shapes(model) == {
        "h.0.attn.c_attn.weight": (32, 16),
        "h.0.attn.c_proj.weight": (16, 16),
        "h.0.mlp.c_fc.weight": (64, 16),
        "h.0.mlp.c_proj.weight": (16, 64),
    }
    assert attention_blocks(model) == {"h.0.attn.c_attn.weight": (16, 8, 8)}
    groups = parameter_groups(model, train_settings(name="muon"))
    assert [(group["muon"], group["weight_decay"], group["lr_scale"]) for group in groups] == [
        (False, 0.1, 1.0),
        (False, 0.0, 1.0),
        (True, 0.1, 1.0),
    ]
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert [names[parameter] for parameter in groups[0]["params"]] == ["wte.weight", "wpe.weight", "lm_head.weight"]
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_parameter_groups_leave_frozen_parameters_out() -> None:
    model = gpt()
    model.h[0].attn.c_attn.weight.requires_grad_(False)
    groups = parameter_groups(model, train_settings(name="muon"))
    assert all(parameter.requires_grad for group in groups for parameter in group["params"])
    assert "h.0.attn.c_attn.weight" not in muon_shapes(model)


def test_muon_makes_queries_keys_and_values_orthogonal_on_their_own() -> None:
    model = gpt()
    optimizer = build_optimizer(model, train_settings(name="muon", weight_decay=0.0, adjust_lr="original"))
    assert isinstance(optimizer, Muon)
    weight = model.h[0].attn.c_attn.weight
    slot = Slot("h.0.attn.c_attn.weight", 0, weight.numel(), weight, 0, 1)
    optimizer.bind([Master(weight, (slot.name,), (slot,))])
    optimizer.state[weight] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(weight)}
    gradient = torch.randn(32, 16, generator=torch.Generator().manual_seed(2))
    weight.grad, before = gradient.clone(), weight.detach().clone()
    optimizer.step()
    wanted = torch.cat([orthogonalized(part, 5, torch.float32) for part in gradient.split([16, 8, 8])])
    torch.testing.assert_close((before - weight) / 0.02, wanted, rtol=1e-4, atol=1e-5)


def test_muon_leaves_weights_and_momentum_alone_where_the_gradient_is_bad() -> None:
    parameters = {name: nn.Parameter(value) for name, value in matrices(0).items()}
    optimizer: Any = muon(OptimizerSettings(name="muon"), parameters)
    for name, gradient in matrices(1).items():
        parameters[name].grad = gradient * math.nan
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert all(torch.equal(parameters[name], value) for name, value in matrices(0).items())
    assert not any(state["exp_avg"].any() or state["step"] for state in optimizer.state.values())


def test_muon_that_does_not_know_where_matrices_lie_refuses_a_step() -> None:
    model = gpt()
    optimizer = build_optimizer(model, train_settings(name="muon"))
    weight = model.h[0].attn.c_attn.weight
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    weight.grad = torch.ones_like(weight)
    with pytest.raises(TrainError, match="before it was told"):
        optimizer.step()
