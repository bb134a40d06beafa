from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model.losses import chunked_cross_entropy

VOCAB, REAL = 192, 150


class Inputs:
    """Seeded inputs of one loss: hidden [n, 24], weight [192, 24], labels, weights in [0, 1) with some zeros."""

    def __init__(self, n: int = 50, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.hidden = torch.randn(n, 24, generator=generator).to(dtype).requires_grad_()
        self.weight = (torch.randn(VOCAB, 24, generator=generator) * 0.5).to(dtype).requires_grad_()
        self.labels = torch.randint(REAL, (n,), generator=generator)
        self.weights = torch.rand(n, generator=generator) * (torch.rand(n, generator=generator) > 0.3)

    def chunked(self, chunk_tokens: int | None = None, z_loss: float = 0.0) -> Tensor:
        arguments = self.hidden, self.weight, self.labels, self.weights, REAL, chunk_tokens
        return chunked_cross_entropy(*arguments, z_loss=z_loss)

    def plain(self) -> Tensor:
        logits = (self.hidden @ self.weight[:REAL].T).to(torch.promote_types(self.hidden.dtype, torch.float32))
        return (F.cross_entropy(logits, self.labels, reduction="none") * self.weights).sum()

    def gradients(self, loss: Tensor, incoming: float = 1.0) -> tuple[Tensor, Tensor]:
        first, second = torch.autograd.grad(loss * incoming, (self.hidden, self.weight))
        return first, second


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 25, 50, 64, None])
def test_chunked_loss_of_any_chunk_equals_cross_entropy(
    dtype: torch.dtype, tolerance: float, chunk_tokens: int | None
) -> None:
    inputs = Inputs(dtype=dtype)
    loss, expected = inputs.chunked(chunk_tokens), inputs.plain()
    torch.testing.assert_close(loss, expected.to(dtype), rtol=tolerance, atol=0)
    gradients = inputs.gradients(loss, 3.0), inputs.gradients(expected, 3.0)
    for gradient, wanted in zip(*gradients, strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, wanted, rtol=tolerance, atol=tolerance)


def test_chunked_loss_in_float64_passes_gradcheck() -> None:
    inputs = Inputs(n=5)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return chunked_cross_entropy(hidden, weight, inputs.labels, inputs.weights, REAL, 2)

    assert torch.autograd.gradcheck(loss, (inputs.hidden, inputs.weight), fast_mode=True)


@pytest.mark.parametrize("chunk_tokens", [7, 64])
@pytest.mark.parametrize("has_bias", [False, True])
def test_z_loss_in_float64_equals_its_formula_and_passes_gradcheck(chunk_tokens: int, has_bias: bool) -> None:
    inputs = Inputs(n=20)
    bias = torch.linspace(-1, 1, VOCAB, dtype=torch.float64) if has_bias else torch.zeros(VOCAB, dtype=torch.float64)

    def chunked(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return chunked_cross_entropy(
            hidden, weight, inputs.labels, inputs.weights, REAL, chunk_tokens, bias_v=bias, z_loss=0.1
        )

    logits = (inputs.hidden @ inputs.weight.T + bias)[:, :REAL]
    each = F.cross_entropy(logits, inputs.labels, reduction="none") + 0.1 * logits.logsumexp(1).square()
    arguments = inputs.hidden, inputs.weight, bias.requires_grad_()
    torch.testing.assert_close(chunked(*arguments), (each * inputs.weights).sum(), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(chunked, arguments, fast_mode=True)


def test_z_loss_without_gradients_is_in_the_loss_too() -> None:
    inputs = Inputs()
    expected = inputs.chunked(16, z_loss=0.5)
    with torch.no_grad():
        assert inputs.chunked(16, z_loss=0.5) == expected
    assert expected > inputs.chunked(16) + 1.0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_chunked_loss_in_half_precision_is_near_float64(dtype: torch.dtype, tolerance: float) -> None:
    inputs, exact = Inputs(dtype=dtype), Inputs()
    exact.hidden, exact.weight = (x.detach().double().requires_grad_() for x in (inputs.hidden, inputs.weight))
    loss = inputs.chunked(16)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.plain().item(), rel=tolerance)
    for gradient, wanted in zip(inputs.gradients(loss), exact.gradients(exact.plain()), strict=True):
        assert gradient.dtype == dtype
        assert (gradient - wanted).norm() < tolerance * wanted.norm()


def test_chunked_loss_in_fp16_with_tiny_weights_keeps_gradients_through_the_loss_scale() -> None:
    inputs, exact = Inputs(dtype=torch.float16), Inputs()
    inputs.weights *= 1e-7
    exact.weights = inputs.weights
    exact.hidden, exact.weight = (x.detach().double().requires_grad_() for x in (inputs.hidden, inputs.weight))
    scale = 2.0**16
    for gradient, wanted in zip(
        inputs.gradients(inputs.chunked(16), scale), exact.gradients(exact.plain(), scale), strict=True
    ):
        assert (gradient - wanted).norm() < 3e-3 * wanted.norm()


def test_chunked_loss_with_zero_weights_is_zero_without_nan() -> None:
    inputs = Inputs(dtype=torch.float32)
    inputs.weights.zero_()
    loss = inputs.chunked(16)
    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in inputs.gradients(loss))


def test_chunked_loss_of_a_masked_token_has_no_gradient() -> None:
    inputs = Inputs(dtype=torch.float32)
    d_hidden, _ = inputs.gradients(inputs.chunked(16))
    masked = inputs.weights == 0
    assert masked.any()
    assert torch.equal(d_hidden.any(dim=1), ~masked)


def test_chunked_loss_gives_padded_rows_no_gradient() -> None:
    inputs = Inputs(dtype=torch.float32)
    _, d_weight = inputs.gradients(inputs.chunked(16))
    assert not d_weight[REAL:].any()
    assert d_weight[:REAL].any(dim=1).all()


@pytest.mark.parametrize("deterministic", [False, True])
def test_chunked_loss_twice_is_bitwise_equal(deterministic: bool, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    torch.use_deterministic_algorithms(deterministic)
    first, second = Inputs(n=700, dtype=torch.float32), Inputs(n=700, dtype=torch.float32)
    losses = first.chunked(64), second.chunked(64)
    assert torch.equal(*losses)
    pairs = zip(first.gradients(losses[0]), second.gradients(losses[1]), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_chunked_loss_backward_twice_gives_the_same_gradients() -> None:
    inputs = Inputs(dtype=torch.float32)
    loss = inputs.chunked(16)
    first = torch.autograd.grad(loss * 2, (inputs.hidden, inputs.weight), retain_graph=True)
    second = torch.autograd.grad(loss * 2, (inputs.hidden, inputs.weight))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_chunked_loss_with_one_input_frozen_gives_the_other_its_gradient(frozen: str) -> None:
    inputs, both = Inputs(dtype=torch.float32), Inputs(dtype=torch.float32)
    getattr(inputs, frozen).requires_grad_(False)
    trained = "weight" if frozen == "hidden" else "hidden"
    (gradient,) = torch.autograd.grad(inputs.chunked(16), getattr(inputs, trained))
    index = 1 if trained == "weight" else 0
    assert torch.equal(gradient, both.gradients(both.chunked(16))[index])


class LargestTensor(TorchDispatchMode):
    """The most elements of any tensor that an operation returned, but for views of the inputs."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.elements = 0
        self.given = {x.untyped_storage().data_ptr() for x in (inputs.hidden, inputs.weight)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.given:
                self.elements = max(self.elements, tensor.numel())
        return result


def test_chunked_loss_never_holds_more_logits_than_a_chunk() -> None:
    inputs = Inputs(n=1000, dtype=torch.float32)
    with LargestTensor(inputs) as chunked:
        inputs.gradients(inputs.chunked(200))
    with LargestTensor(inputs) as plain:
        inputs.gradients(inputs.plain())
    assert chunked.elements == 200 * VOCAB > inputs.hidden.numel()
    assert plain.elements >= 1000 * REAL


def test_chunked_loss_without_gradients_makes_none() -> None:
    inputs = Inputs(n=2, dtype=torch.float32)
    with torch.no_grad(), LargestTensor(inputs) as seen:
        loss = inputs.chunked(1)
    torch.testing.assert_close(loss, inputs.plain().detach())
    assert seen.elements <= 2 * VOCAB  # below the [V, C] of a gradient
