"""Cross-entropy over a vocabulary without holding all logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits held at once, and the fewest rows of them. Measured on a CPU (AMD EPYC): 256 to 512 rows are the fastest for
# V = 8192 and 50304; fewer make slow products, more leave the cache. For a GPU not measured: 2**26 are 256 MiB.
_CHUNK_LOGITS_CPU = 2**22
_CHUNK_LOGITS_GPU = 2**26
_CHUNK_ROWS_LEAST = 256


def chunk_rows(vocab_rows: int, device: str) -> int:
    """Rows of logits that are held at once, [rows, vocab_rows], on a device of this kind ("cpu" or "cuda")."""
    return max(_CHUNK_ROWS_LEAST, (_CHUNK_LOGITS_CPU if device == "cpu" else _CHUNK_LOGITS_GPU) // vocab_rows)


class _Result(NamedTuple):
    loss: Tensor  # scalar
    d_hidden_nc: Tensor | None
    d_weight_vc: Tensor | None
    d_bias_v: Tensor | None


def chunked_cross_entropy(
    hidden_nc: Tensor,
    weight_vc: Tensor,
    labels_n: Tensor,
    weights_n: Tensor,
    vocab_size: int,
    chunk_tokens: int | None = None,
    *,
    bias_v: Tensor | None = None,
    z_loss: float = 0.0,
) -> Tensor:
    """sum over n of weights_n[n] * cross-entropy(softmax(weight_vc @ hidden_nc[n] + bias_v), labels_n[n]), a scalar.

    With `z_loss` the cross-entropy is more by z_loss * (log Z)^2, Z being the softmax's denominator, which keeps the
    logits from drifting (Chowdhery et al. 2022, 5).

    hidden_nc [N, C], weight_vc [V, C] and bias_v [V] (default: none) share a dtype; labels_n [N] int64 below
    `vocab_size`, also where the weight is 0; weights_n [N] float, at least 0. Rows of weight_vc from `vocab_size` on
    take no part. The loss is float32 (float64 for float64 inputs): softmax and sums are in that type, the three
    products with the vocabulary in the inputs' own.

    Both gradients are made chunk by chunk in the forward pass, where the logits are at hand, so that at most
    `chunk_tokens` rows of logits exist and each product with the vocabulary is made once: Liger-Kernel's fused
    linear cross-entropy (Hsu et al. 2024). They stay float32 until the backward pass has multiplied
    them by the incoming gradient, so that a loss scale rescues what fp16 would round to zero.
    """
    if chunk_tokens is None:
        chunk_tokens = chunk_rows(weight_vc.shape[0], hidden_nc.device.type)
    arguments = hidden_nc, weight_vc, bias_v, labels_n, weights_n, vocab_size, chunk_tokens, z_loss
    if not torch.is_grad_enabled():  # autograd would say that gradients are needed, and they cost two thirds
        return _loss_and_gradients(*arguments, needs_grad=(False, False, False)).loss
    apply: Callable[..., Tensor] = _ChunkedCrossEntropy.apply
    return apply(*arguments)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_nc: Tensor, weight_vc: Tensor, bias_v: Tensor | None, *labels_and_sizes: Any
    ) -> Tensor:
        needs_grad = ctx.needs_input_grad[:3]
        result = _loss_and_gradients(hidden_nc, weight_vc, bias_v, *labels_and_sizes, needs_grad=needs_grad)
        ctx.save_for_backward(result.d_hidden_nc, result.d_weight_vc, result.d_bias_v)
        ctx.dtypes = hidden_nc.dtype, weight_vc.dtype, weight_vc.dtype
        return result.loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (
            None if gradient is None else (gradient * d_loss).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*scaled, None, None, None, None, None)


def _loss_and_gradients(
    hidden_nc: Tensor,
    weight_vc: Tensor,
    bias_v: Tensor | None,
    labels_n: Tensor,
    weights_n: Tensor,
    vocab_size: int,
    chunk_tokens: int,
    z_loss: float,
    *,
    needs_grad: tuple[bool, bool, bool],
) -> _Result:
    dtype = torch.promote_types(hidden_nc.dtype, torch.float32)
    weights_n = weights_n.to(dtype)
    # Weights reach d_weight relative to the largest: one of 1e-6 would take a half-precision product to zero.
    largest = weights_n.amax().clamp_min(torch.finfo(dtype).tiny)
    loss = torch.zeros((), dtype=dtype, device=hidden_nc.device)
    d_hidden_nc = torch.empty_like(hidden_nc, dtype=dtype) if needs_grad[0] else None
    d_weight_vc = torch.zeros_like(weight_vc, dtype=dtype) if needs_grad[1] else None
    d_bias_v = torch.zeros(len(weight_vc), dtype=dtype, device=hidden_nc.device) if needs_grad[2] else None
    # Written by every chunk anew: on a CPU, memory fresh from the system costs as much as a softmax.
    logits_buffer = hidden_nc.new_empty(min(chunk_tokens, len(hidden_nc)), len(weight_vc))
    log_p_buffer = torch.empty_like(logits_buffer, dtype=dtype)
    for start in range(0, len(hidden_nc), chunk_tokens):
        rows = slice(start, start + chunk_tokens)
        hidden, weights = hidden_nc[rows], weights_n[rows, None]
        at_label = torch.arange(len(hidden), device=hidden.device), labels_n[rows]
        logits = torch.mm(hidden, weight_vc.T, out=logits_buffer[: len(hidden)])
        if bias_v is not None:
            logits += bias_v
        logits[:, vocab_size:] = -torch.inf  # probability 0
        log_p = torch.log_softmax(logits, 1, dtype=dtype, out=log_p_buffer[: len(hidden)])
        losses = -log_p[at_label]
        if z_loss:
            log_z = logits[at_label].to(dtype) + losses
            losses = losses + z_loss * log_z.square()
        loss += (losses * weights_n[rows]).sum()
        if not any(needs_grad):
            continue
        p = log_p.exp_()
        if z_loss:
            p *= (1.0 + 2.0 * z_loss * log_z)[:, None]
        p[at_label] -= 1.0
        d_logits = p.to(hidden.dtype)
        if d_hidden_nc is not None:
            d_hidden_nc[rows] = (d_logits @ weight_vc).to(dtype) * weights
        if d_bias_v is not None:
            d_bias_v += (p * weights).sum(0)
        if d_weight_vc is not None:
            _add_product(d_weight_vc, d_logits, (hidden * (weights / largest)).to(hidden.dtype))
    if d_weight_vc is not None:
        d_weight_vc *= largest
    return _Result(loss, d_hidden_nc, d_weight_vc, d_bias_v)


def _add_product(sum_vc: Tensor, d_logits_nv: Tensor, hidden_nc: Tensor) -> None:
    if sum_vc.dtype == hidden_nc.dtype:
        sum_vc.addmm_(d_logits_nv.T, hidden_nc)  # in place: no second [V, C]
    else:
        sum_vc += d_logits_nv.T @ hidden_nc
