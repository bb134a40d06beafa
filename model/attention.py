"""Causal self-attention with heads (Vaswani et al. 2017), the keys' heads perhaps fewer (Ainslie et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.cache import DecoderCache, KeyValueCache
from model.config import GPTConfig
from model.documents import DocumentLayout
from model.layers import Linear, residual_std
from model.rotary import Rotation


class Attention(nn.Module):
    """Each token looks at itself and those before it."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.kv_heads, config.head_width
        self.dropout = config.dropout
        width = (config.n_head + 2 * config.kv_heads) * config.head_width
        self.c_attn = Linear(config.n_embd, width, bias=config.qkv_bias)
        inner = config.n_head * config.head_width
        self.c_proj = Linear(inner, config.n_embd, std=residual_std(config), bias=config.attention_out_bias)
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(config.head_width, eps=config.norm_eps)
            self.k_norm = nn.RMSNorm(config.head_width, eps=config.norm_eps)
        self.has_qk_norm = config.qk_norm

    def forward(
        self,
        x_btc: Tensor,
        documents: DocumentLayout | None = None,
        rotation: Rotation | None = None,
        cache: KeyValueCache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """[B, T, C] to [B, T, C]; token t sees the tokens up to t, those of its own document where there are some.

        rotation: by which queries and keys turn, in models with rotary positions. cache: of the tokens before these.
        mask: which tokens each sees instead, bool [B, 1, T, T], with neither documents nor cache.
        """
        qkv_btc = self.c_attn(x_btc)
        if self.has_qk_norm or rotation is not None:
            qkv_btc = self._prepared(qkv_btc, rotation)
        if mask is not None:
            y_btc = self._attend(qkv_btc, mask)
        elif cache is not None:
            y_btc = self._attend_cached(qkv_btc, cache)
        else:
            y_btc = self._attend(qkv_btc) if documents is None else documents.attend(qkv_btc, self._attend)
        return F.dropout(self.c_proj(y_btc), self.dropout, self.training)

    def _prepared(self, qkv_btc: Tensor, rotation: Rotation | None) -> Tensor:
        """The same with queries and keys normed and turned."""
        heads = qkv_btc.view(*qkv_btc.shape[:2], -1, self.head_dim)
        qk, v = heads[:, :, : self.n_head + self.n_kv_head], heads[:, :, self.n_head + self.n_kv_head :]
        if self.has_qk_norm:
            qk = self._normed(qk)
        if rotation is not None:
            qk = rotation.turn(qk)
        return torch.cat((qk, v), dim=2).flatten(2)

    def _normed(self, qk_bthd: Tensor) -> Tensor:
        q_bthd, k_bthd = qk_bthd[:, :, : self.n_head], qk_bthd[:, :, self.n_head :]
        return torch.cat((self.q_norm(q_bthd), self.k_norm(k_bthd)), dim=2)

    def _split(self, qkv_btc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, D], keys and values [B, heads of keys, T, D]."""
        heads_bhtd = qkv_btc.view(*qkv_btc.shape[:2], -1, self.head_dim).transpose(1, 2)
        q, k, v = torch.split(heads_bhtd, [self.n_head, self.n_kv_head, self.n_kv_head], dim=1)
        return q, k, v

    def _spread(self, k_bhtd: Tensor) -> Tensor:
        return spread_heads(k_bhtd, self.n_head)

    def _attend(self, qkv_btc: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries, keys and values side by side [B, T, (H + 2 heads of keys) D] to [B, T, H D]; a mask, or causal."""
        q, k, v = self._split(qkv_btc)
        dropout = self.dropout if self.training else 0.0
        y_bhtd = F.scaled_dot_product_attention(
            q, self._spread(k), self._spread(v), attn_mask=mask, dropout_p=dropout, is_causal=mask is None
        )
        return y_bhtd.transpose(1, 2).flatten(2)

    def _attend_cached(self, qkv_btc: Tensor, cache: KeyValueCache) -> Tensor:
        q, k, v = self._split(qkv_btc)
        mask = cache.mask(q.shape[2])
        k, v = cache.extend(self.layer, k, v)
        y_bhtd = F.scaled_dot_product_attention(q, self._spread(k), self._spread(v), attn_mask=mask)
        return y_bhtd.transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """Each token looks at an encoder's output (Vaswani et al. 2017, 3.2.3); without positions, as in T5's.

    Names as in Hugging Face's GPT-2 with `add_cross_attention`.
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head, self.head_dim, self.dropout = config.n_head, config.head_width, config.dropout
        inner, memory = config.n_head * config.head_width, config.kv_heads * config.head_width
        self.q_attn = Linear(config.n_embd, inner, bias=config.qkv_bias)
        self.c_attn = Linear(config.n_embd, 2 * memory, bias=config.qkv_bias)
        self.c_proj = Linear(inner, config.n_embd, std=residual_std(config), bias=config.attention_out_bias)

    def forward(
        self, x_btc: Tensor, memory_btc: Tensor | None, mask: Tensor | None = None, cache: DecoderCache | None = None
    ) -> Tensor:
        """[B, T, C] and the encoder's [B, S, C] to [B, T, C]; mask: which of it each token sees, bool [B, 1, T, S].

        cache: has the encoder's keys and values, or is given them, where its output is.
        """
        q = self._heads(self.q_attn(x_btc))
        k, v = self._keys_and_values(memory_btc, cache)
        dropout = self.dropout if self.training else 0.0
        y_bhtd = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return F.dropout(self.c_proj(y_bhtd.transpose(1, 2).flatten(2)), self.dropout, self.training)

    def _keys_and_values(self, memory_btc: Tensor | None, cache: DecoderCache | None) -> tuple[Tensor, Tensor]:
        if memory_btc is None:
            assert cache is not None
            return cache.of_encoder[self.layer]
        k, v = (spread_heads(self._heads(part), self.n_head) for part in self.c_attn(memory_btc).chunk(2, dim=-1))
        if cache is not None:
            cache.of_encoder[self.layer] = k, v
        return k, v

    def _heads(self, x_btc: Tensor) -> Tensor:
        return x_btc.view(*x_btc.shape[:2], -1, self.head_dim).transpose(1, 2)


def spread_heads(k_bhtd: Tensor, n_head: int) -> Tensor:
    """Each head of keys or values as often as there are heads of queries to it, [B, n_head, T, D]."""
    times = n_head // k_bhtd.shape[1]
    return k_bhtd if times == 1 else k_bhtd.repeat_interleave(times, dim=1)
