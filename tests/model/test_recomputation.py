from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

import model.recomputation
from model.config import GPTConfig
from model.documents import document_layout
from model.gpt import GPT

SHAPE = {"vocab_size": 64, "real_vocab_size": 61, "n_layer": 3, "n_head": 2, "n_embd": 16, "max_seq_len": 8}
PRODUCTS, ATTENTION = ("addmm", "mm"), ("_scaled_dot_product_flash_attention_for_cpu",)


def build(mode: str, **changes: Any) -> GPT:
    torch.manual_seed(1)
    return GPT(GPTConfig(**{**SHAPE, **changes}, activation_checkpointing=mode))


def tokens(seed: int) -> Tensor:
    return torch.randint(61, (2, 8), generator=torch.Generator().manual_seed(seed))


class Operations(TorchDispatchMode):
    """How often each operation ran."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.times[func.__name__.split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def operations(mode: str) -> Counter[str]:
    gpt = build(mode)
    with Operations() as seen:
        gpt(tokens(1), tokens(2)).backward()
    return seen.times


def test_selective_makes_norms_again_but_neither_products_nor_attention() -> None:
    none, selective, full = (operations(mode) for mode in ("none", "selective", "full"))
    for name in (*PRODUCTS, *ATTENTION):
        assert none[name] == selective[name], name
    assert full["addmm"] > none["addmm"]
    assert full[ATTENTION[0]] == 2 * none[ATTENTION[0]] == 6
    # In each of 3 blocks the MLP's activation is made again.
    assert selective["gelu"] == full["gelu"] == 2 * none["gelu"] == 6


def test_full_cpu_hands_the_blocks_inputs_alone_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[tuple[int, ...]] = []

    class Recording(saved_tensors_hooks):
        """In place of torch's, which has nothing to copy where tensors are on the host already."""

        def __init__(self, pin_memory: bool) -> None:
            assert not pin_memory

            def pack(tensor: Tensor) -> Tensor:
                packed.append(tuple(tensor.shape))
                return tensor.clone()

            super().__init__(pack, lambda tensor: tensor)

    expected = build("none")
    expected(tokens(1), tokens(2)).backward()
    gpt = build("full_cpu")
    monkeypatch.setattr(model.recomputation, "save_on_cpu", Recording)
    gpt(tokens(1), tokens(2)).backward()
    assert packed == [(2, 8, 16)] * 3
    pairs = zip(gpt.parameters(), expected.parameters(), strict=True)
    assert all(torch.equal(one.grad, other.grad) for one, other in pairs)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["selective", "full_cpu"])
@pytest.mark.parametrize(
    "shape",
    [
        {"positions": "rotary", "norm": "rms", "activation": "swiglu", "n_kv_head": 1, "qk_norm": True},
        {"positions": "rotary", "parallel_block": True, "rotary_pairs": "neighbours", "dropout": 0.3},
        {"norm_place": "after", "dropout": 0.3},
    ],
)
def test_recomputation_changes_no_bit_of_any_shapes_gradients(mode: str, shape: dict[str, Any]) -> None:
    """With several documents in a row, too."""
    documents = document_layout(torch.tensor([3, 5, 8]).numpy(), 8)
    found = []
    for one in ("none", mode):
        gpt = build(one, **shape)
        torch.manual_seed(5)
        loss = gpt(tokens(1), tokens(2), documents=documents)
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in gpt.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
