"""Planned activations against live tensors, counted over a forward and a backward pass of the whole family."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from model.config import GPTConfig
from model.gpt import GPT
from tests.live_tensors import LiveTensors
from trainer.plan_activations import Activations, Pass, activations

TOLERANCE = 0.03
SHAPE = GPTConfig(vocab_size=1024, real_vocab_size=1000, n_layer=4, n_head=4, n_embd=128, max_seq_len=64)
LLAMA: dict[str, Any] = {
    "activation": "swiglu",
    "norm": "rms",
    "positions": "rotary",
    "n_kv_head": 2,
    "qkv_bias": False,
    "mlp_bias": False,
}
GPTJ: dict[str, Any] = {
    "parallel_block": True,
    "positions": "rotary",
    "rotary_pairs": "neighbours",
    "rotary_dim": 16,
    "tied_head": False,
    "head_bias": True,
}
MODES = ("none", "full", "full_cpu", "selective", "every_2")
CASES: list[tuple[int, str, dict[str, Any]]] = [
    *((8, precision, {"activation_checkpointing": mode}) for mode in MODES for precision in ("float32", "bfloat16")),
    *((8, "float32", {"activation_checkpointing": mode, **LLAMA}) for mode in MODES),
    (8, "bfloat16", LLAMA),
    (8, "float32", GPTJ),
    (4, "float32", {"norm_place": "after"}),
    (4, "float32", {"qk_norm": True}),
    (4, "float32", {"dropout": 0.1}),
    (4, "float32", {"dropout": 0.1, "activation_checkpointing": "selective"}),
    (1, "float32", {}),
    (4, "float32", {"activation_checkpointing": "every_3", "n_layer": 7}),
    (8, "float32", {"n_embd": 64, "n_head": 2}),
]


def measured(config: GPTConfig, rows: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Bytes beside the parameters and gradients: kept by the forward pass, and the most before and after its end."""
    torch.manual_seed(0)
    model = GPT(config).to(dtype).train()
    tokens_bt = torch.randint(config.real_vocab_size, (rows, config.max_seq_len))
    weights_bt = torch.ones(rows, config.max_seq_len)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with LiveTensors() as live:
        for known in (*model.parameters(), *(p.grad for p in model.parameters()), tokens_bt, weights_bt):
            assert known is not None
            known.view(-1)
        held = live.now_bytes
        saved, inner = 0, model._hidden

        def hidden(*arguments: Any) -> torch.Tensor:
            nonlocal saved
            result = inner(*arguments)
            saved = live.now_bytes - held
            return result

        model._hidden = hidden  # type: ignore[method-assign]
        loss = model(tokens_bt, tokens_bt, weights_bt)
        before = live.peak_bytes - held
        live.restart()
        loss.backward()
        return saved, before, live.peak_bytes - held


@pytest.mark.parametrize(("rows", "precision", "changes"), CASES)
def test_activations_of_the_family_are_as_counted(rows: int, precision: str, changes: dict[str, Any]) -> None:
    config, dtype = dataclasses.replace(SHAPE, **changes), getattr(torch, precision)
    planned = activations(config, Pass(rows, config.max_seq_len, dtype.itemsize))
    saved, before, after = measured(config, rows, dtype)
    assert planned.saved == pytest.approx(saved, rel=TOLERANCE)
    assert planned.loss == pytest.approx(before, rel=TOLERANCE)
    assert max(planned.backward, *planned.blocks) == pytest.approx(after, rel=TOLERANCE)


def planned_on(device: str, mode: str) -> Activations:
    config = dataclasses.replace(SHAPE, activation_checkpointing=mode)
    return activations(config, Pass(2, config.max_seq_len, 2, device))


def test_full_cpu_on_a_gpu_keeps_block_inputs_on_the_host() -> None:
    inputs = SHAPE.n_layer * 2 * SHAPE.max_seq_len * SHAPE.n_embd * 2
    full, moved = planned_on("cuda", "full"), planned_on("cuda", "full_cpu")
    assert (full.host, moved.host) == (0, inputs)
    assert full.saved - moved.saved == inputs
    assert planned_on("cpu", "full_cpu").host == 0


def test_full_keeps_less_than_selective_and_that_less_than_none() -> None:
    none, selective, full = (planned_on("cuda", mode).peak for mode in ("none", "selective", "full"))
    assert full < selective < none
