"""Activation checkpointing (Chen et al. 2016): what of a block is kept, and what made again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_ATEN = torch.ops.aten
# What costs most to make again for the memory that its output takes: matrix products, and attention by any kernel.
_KEPT = frozenset(
    {
        _ATEN.mm.default,
        _ATEN.addmm.default,
        _ATEN.bmm.default,
        _ATEN.baddbmm.default,
        _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        _ATEN._scaled_dot_product_flash_attention.default,
        _ATEN._scaled_dot_product_efficient_attention.default,
        _ATEN._scaled_dot_product_cudnn_attention.default,
        _ATEN._scaled_dot_product_fused_attention_overrideable.default,
    }
)


def run_recomputed(mode: str, block: Callable[..., Tensor], x_btc: Tensor, *others: Any) -> Tensor:
    """block(x_btc, *others), [B, T, C], of which the backward pass finds less in memory and makes the rest again.

    mode: as `GPTConfig.activation_checkpointing`, but not none. selective: the outputs of attention and of matrix
    products are kept, so that little more than norms and activations is made again. full_cpu: only x_btc is kept, in
    the host's memory. Any other: only x_btc is kept. Gradients are the same to the last bit, dropout included.
    """
    run = partial(checkpoint, block, x_btc, *others, use_reentrant=False, preserve_rng_state=True)
    if mode == "selective":
        kept: Tensor = run(context_fn=_selective_contexts)
        return kept
    if mode == "full_cpu":
        with save_on_cpu(pin_memory=x_btc.is_cuda):  # the block's own hooks, set within, are asked first
            on_host: Tensor = run()
        return on_host
    y_btc: Tensor = run()
    return y_btc


def _selective_contexts() -> Any:
    contexts: Callable[..., Any] = create_selective_checkpoint_contexts
    return contexts(_policy)


def _policy(context: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
