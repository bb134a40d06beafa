"""The GPT family: one decoder that a config shapes, with OpenAI's names for its parts.

GPT-1 (Radford et al. 2018), GPT-2 (Radford et al. 2019), GPT-3 (Brown et al. 2020, but with dense attention in every
block), GPT-J (Wang and Komatsuzaki 2021), and models of Llama's and Qwen's kind (Touvron et al. 2023). A classifier
(Radford et al. 2018, 3.2) is the same with a head of as many outputs as there are classes, read at a text's last token.

Letters in names and comments: B sequences, T tokens, C channels, H heads, D channels of a head, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention import Attention
from model.cache import KeyValueCache
from model.config import GPTConfig
from model.documents import DocumentLayout
from model.errors import ModelError
from model.layers import MLP, Embedding, Linear, make_norm
from model.losses import chunked_cross_entropy
from model.recomputation import run_recomputed
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
        mask: Tensor | None = None,
    ) -> Tensor:
        """[B, T, C] to [B, T, C]; the arguments are attention's."""
        if self.order == "after":
            x_btc = self.ln_1(x_btc + self.attn(x_btc, documents, rotation, cache, mask))
            after: Tensor = self.ln_2(x_btc + self.mlp(x_btc))
            return after
        normed_btc = self.ln_1(x_btc)
        x_btc = x_btc + self.attn(normed_btc, documents, rotation, cache, mask)
        y_btc: Tensor = x_btc + self.mlp(normed_btc if self.order == "parallel" else self.ln_2(x_btc))
        return y_btc


class GPT(nn.Module):
    """The decoder. The same torch seed gives the same parameters; on the meta device it is built without memory."""

    block_type: type[Block] = Block

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = Embedding(config.vocab_size, config.n_embd)
        if config.positions == "learned":
            self.wpe = Embedding(config.max_seq_len, config.n_embd)
        self.h = nn.ModuleList(self.block_type(config, layer) for layer in range(config.n_layer))
        if config.norm_place == "before":
            self.ln_f = make_norm(config)
        if config.n_classes is not None:
            self.score = Linear(config.n_embd, config.n_classes, bias=False)
        elif not config.tied_head:
            self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        if config.head_bias and config.n_classes is None:
            self.head_bias = nn.Parameter(torch.zeros(config.vocab_size))
        # In training alone; no part of the shape: whoever trains sets them.
        self.z_loss = 0.0
        self.class_weights: Tensor | None = None  # of a classifier's labels, float32 [n_classes]; None: ones

    def forward(
        self,
        tokens_bt: Tensor,
        labels_bt: Tensor | None = None,
        weights_bt: Tensor | None = None,
        *,
        documents: DocumentLayout | None = None,
        last_only: bool = False,
        cache: KeyValueCache | None = None,
        embedding_shift_btc: Tensor | None = None,
        decoder_starts_bt: Tensor | None = None,
    ) -> Tensor:
        """Logits, or the loss where labels are given.

        tokens_bt, labels_bt: int64 [B, T], T up to max_seq_len, ids below real_vocab_size. weights_bt: float [B, T]
        (default: ones). With labels: the scalar float32 sum (not the mean) of weight * cross-entropy in nats, in
        training with `z_loss`. Without: logits [B, T, V], or [B, 1, V] of the last token with `last_only`; ids that
        only pad the vocabulary have -inf. documents: where a row holds several; the result for each is then that of
        the document alone, but for labels, which are the caller's. cache: of the tokens before these; it is extended
        by them. embedding_shift_btc: [B, T, C], added to the tokens' embeddings. decoder_starts_bt: where texts are
        cut, for an encoder-decoder alone (see `model.encoder_decoder`). Raises ModelError if T (and what the cache
        holds) exceeds max_seq_len or `documents` is of another shape. A classifier has n_classes outputs in
        place of V; labels of weight 0 may be any id; in training a label counts with its class's weight too.
        """
        x_btc = self._hidden(tokens_bt, documents, cache, embedding_shift_btc, decoder_starts_bt)
        weight_vc, bias_v, outputs = self._output_layer()
        if labels_bt is None:
            logits_btv = F.linear(x_btc[:, -1:] if last_only else x_btc, weight_vc, bias_v)
            logits_btv[..., outputs:] = -torch.inf
            return logits_btv
        if weights_bt is None:
            weights_bt = torch.ones_like(labels_bt, dtype=torch.float32)
        if self.config.n_classes is not None:
            labels_bt, weights_bt = self._class_labels(labels_bt, weights_bt, self.config.n_classes)
        return chunked_cross_entropy(
            x_btc.flatten(0, 1),
            weight_vc,
            labels_bt.flatten(),
            weights_bt.flatten(),
            outputs,
            bias_v=bias_v,
            z_loss=self.z_loss if self.training else 0.0,
        )

    def _output_layer(self) -> tuple[Tensor, Tensor | None, int]:
        """Weight and bias of the output layer, and how many of its rows stand for something.

        To be read in this module's own forward: ZeRO stage 3 gathers a parameter of another module only then.
        """
        if self.config.n_classes is not None:
            return self.score.weight, None, self.config.n_classes
        weight_vc = self.wte.weight if self.config.tied_head else self.lm_head.weight
        return weight_vc, self.head_bias if self.config.head_bias else None, self.config.real_vocab_size

    def _class_labels(self, labels_bt: Tensor, weights_bt: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
        """The same where every label is a class: those that do not count are ids of text; with the classes' weights."""
        labels_bt = torch.where(weights_bt > 0, labels_bt, 0)
        if self.training and self.class_weights is not None:
            weights_bt = weights_bt * self.class_weights.to(weights_bt)[labels_bt]
        return labels_bt, weights_bt

    def _hidden(
        self,
        tokens_bt: Tensor,
        documents: DocumentLayout | None,
        cache: KeyValueCache | None,
        embedding_shift_btc: Tensor | None,
        decoder_starts_bt: Tensor | None,
    ) -> Tensor:
        """The residual stream after the last block and norm, [B, T, C]; the arguments are `forward`'s."""
        if decoder_starts_bt is not None:
            raise ModelError("a decoder's texts are not cut, and decoder_starts_bt is given: leave it out")
        x_btc, turns = self._embedded(tokens_bt, self._positions(tokens_bt, documents, cache), embedding_shift_btc)
        for layer, block in enumerate(self.h):
            if self._is_recomputed(layer):
                x_btc = run_recomputed(self.config.activation_checkpointing, block, x_btc, documents, turns)
            else:
                x_btc = block(x_btc, documents, turns, cache)
        if cache is not None:
            cache.advance(tokens_bt.shape[1])
        return self._last_norm(x_btc)

    def _last_norm(self, x_btc: Tensor) -> Tensor:
        return torch.as_tensor(self.ln_f(x_btc)) if self.config.norm_place == "before" else x_btc

    def _embedded(
        self, tokens_bt: Tensor, positions: Tensor, shift_btc: Tensor | None = None
    ) -> tuple[Tensor, Rotation | None]:
        """The residual stream before the first block, [B, T, C], and by what queries and keys turn."""
        x_btc = self.wte(tokens_bt)
        if shift_btc is not None:
            x_btc = x_btc + shift_btc.to(x_btc.dtype)
        if self.config.positions == "learned":
            x_btc = x_btc + self.wpe(positions)
        turns = rotation(self.config, positions) if self.config.positions == "rotary" else None
        return F.dropout(x_btc, self.config.dropout, self.training), turns

    def _is_recomputed(self, layer: int) -> bool:
        return self.training and torch.is_grad_enabled() and self.config.is_checkpointed(layer)

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


def parameter_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of `GPT(config)`'s parameters by name, in its order, a tied one once. Takes no memory."""
    with torch.device("meta"):
        model = GPT(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
