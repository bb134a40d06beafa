"""The GPT family: one decoder that a config shapes, with OpenAI's names for its parts.

GPT-1 (Radford et al. 2018), GPT-2 (Radford et al. 2019), GPT-3 (Brown et al. 2020, but with dense attention in every
block), GPT-J (Wang and Komatsuzaki 2021), and models of Llama's and Qwen's kind (Touvron et al. 2023).

Letters in names and comments: B sequences, T tokens, C channels, H heads, D channels of a head, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model.attention import Attention
from model.cache import KeyValueCache
from model.config import GPTConfig
from model.documents import DocumentLayout
from model.errors import ModelError
from model.layers import MLP, Embedding, Linear, make_norm
from model.losses import chunked_cross_entropy
from model.rotary import Rotation, rotation


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.order = "parallel" if config.parallel_block else config.norm_place
        self.ln_1 = make_norm(config)
        self.attn = Attention(config, layer)
        if not config.parallel_block:
            self.ln_2 = make_norm(config)
        self.mlp = MLP(config)

    def forward(
        self,
        x_btc: Tensor,
        documents: DocumentLayout | None = None,
        rotation: Rotation | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        if self.order == "after":
            x_btc = self.ln_1(x_btc + self.attn(x_btc, documents, rotation, cache))
            after: Tensor = self.ln_2(x_btc + self.mlp(x_btc))
            return after
        normed_btc = self.ln_1(x_btc)
        x_btc = x_btc + self.attn(normed_btc, documents, rotation, cache)
        y_btc: Tensor = x_btc + self.mlp(normed_btc if self.order == "parallel" else self.ln_2(x_btc))
        return y_btc


class GPT(nn.Module):
    """The decoder. The same torch seed gives the same parameters; on the meta device it is built without memory."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = Embedding(config.vocab_size, config.n_embd)
        if config.positions == "learned":
            self.wpe = Embedding(config.max_seq_len, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        if config.norm_place == "before":
            self.ln_f = make_norm(config)
        if not config.tied_head:
            self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        if config.head_bias:
            self.head_bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self,
        tokens_bt: Tensor,
        labels_bt: Tensor | None = None,
        weights_bt: Tensor | None = None,
        *,
        documents: DocumentLayout | None = None,
        last_only: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Logits, or the loss where labels are given.

        tokens_bt, labels_bt: int64 [B, T], T up to max_seq_len, ids below real_vocab_size. weights_bt: float [B, T]
        (default: ones). With labels: the scalar float32 sum (not the mean) of weight * cross-entropy in nats. Without:
        logits [B, T, V], or [B, 1, V] of the last token with `last_only`; ids that only pad the vocabulary have -inf.
        documents: where a row holds several; the result for each is then that of the document alone, but for labels,
        which are the caller's. cache: of the tokens before these; it is extended by them. Raises ModelError if T (and
        what the cache holds) exceeds max_seq_len or `documents` is of another shape.
        """
        x_btc = self._hidden(tokens_bt, documents, cache)
        # Read here, in this module's own forward: ZeRO stage 3 gathers a parameter of another module only then.
        weight_vc = self.wte.weight if self.config.tied_head else self.lm_head.weight
        bias_v = self.head_bias if self.config.head_bias else None
        if labels_bt is None:
            logits_btv = F.linear(x_btc[:, -1:] if last_only else x_btc, weight_vc, bias_v)
            logits_btv[..., self.config.real_vocab_size :] = -torch.inf
            return logits_btv
        if weights_bt is None:
            weights_bt = torch.ones_like(labels_bt, dtype=torch.float32)
        return chunked_cross_entropy(
            x_btc.flatten(0, 1),
            weight_vc,
            labels_bt.flatten(),
            weights_bt.flatten(),
            self.config.real_vocab_size,
            bias_v=bias_v,
        )

    def _hidden(self, tokens_bt: Tensor, documents: DocumentLayout | None, cache: KeyValueCache | None) -> Tensor:
        """The residual stream after the last block and norm, [B, T, C]."""
        positions = self._positions(tokens_bt, documents, cache)
        x_btc = self.wte(tokens_bt)
        if self.config.positions == "learned":
            x_btc = x_btc + self.wpe(positions)
        turns = rotation(self.config, positions) if self.config.positions == "rotary" else None
        x_btc = F.dropout(x_btc, self.config.dropout, self.training)
        for layer, block in enumerate(self.h):
            if self.training and torch.is_grad_enabled() and self.config.is_checkpointed(layer):
                x_btc = checkpoint(block, x_btc, documents, turns, use_reentrant=False, preserve_rng_state=True)
            else:
                x_btc = block(x_btc, documents, turns, cache)
        if cache is not None:
            cache.advance(tokens_bt.shape[1])
        y_btc: Tensor = self.ln_f(x_btc) if self.config.norm_place == "before" else x_btc
        return y_btc

    def _positions(self, tokens_bt: Tensor, documents: DocumentLayout | None, cache: KeyValueCache | None) -> Tensor:
        """Each token's position in its document, int64 [B, T], or [T] where every row is one."""
        t = tokens_bt.shape[1] + (0 if cache is None else cache.length)
        if t > self.config.max_seq_len:
            raise ModelError(f"the text has {t} tokens; model.max_seq_len is {self.config.max_seq_len}: shorten it")
        if cache is not None:
            return cache.positions(tokens_bt.shape[1])
        if documents is None:
            return torch.arange(t, device=tokens_bt.device)
        if documents.positions_bt.shape != tokens_bt.shape:
            given, wanted = tuple(documents.positions_bt.shape), tuple(tokens_bt.shape)
            raise ModelError(f"the documents are laid out for rows and tokens {given}; the batch has {wanted}")
        return documents.positions_bt
