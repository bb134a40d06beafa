"""GPT-2 (Radford et al. 2019), with OpenAI's names for its parts.

Letters in names and comments: B sequences, T tokens, C channels, H heads, D channels of a head, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model.config import GPTConfig
from model.documents import DocumentLayout
from model.errors import ModelError
from model.losses import chunked_cross_entropy

INIT_STD = 0.02
LAYER_NORM_EPSILON = 1e-5


class Linear(nn.Linear):
    """A linear layer which starts normal with the given deviation, and with no bias.

    It does so in its own constructor, so that it also holds where parameters are split over ranks right after.
    """

    def __init__(self, in_features: int, out_features: int, std: float = INIT_STD) -> None:
        self.std = std
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Draw the weights from torch's global generator."""
        nn.init.normal_(self.weight, std=self.std)
        nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """An embedding which starts normal with deviation 0.02."""

    def reset_parameters(self) -> None:
        """Draw the weights from torch's global generator."""
        nn.init.normal_(self.weight, std=INIT_STD)


def residual_std(n_layer: int) -> float:
    """Deviation of the 2 * n_layer projections whose outputs add up in the residual stream (Radford et al. 2.3)."""
    return INIT_STD / math.sqrt(2 * n_layer)


class Attention(nn.Module):
    """Causal self-attention with `n_head` heads (Vaswani et al. 2017)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd, std=residual_std(config.n_layer))

    def forward(self, x_btc: Tensor, documents: DocumentLayout | None = None) -> Tensor:
        """[B, T, C] to [B, T, C]; token t sees the tokens up to t, those of its own document where there are some."""
        qkv_btc = self.c_attn(x_btc)
        y_btc = self._attend(qkv_btc) if documents is None else documents.attend(qkv_btc, self._attend)
        return F.dropout(self.c_proj(y_btc), self.dropout, self.training)

    def _attend(self, qkv_btc: Tensor) -> Tensor:
        """Queries, keys and values [B, T, 3 C] to [B, T, C]."""
        b, t, c3 = qkv_btc.shape
        qkv = qkv_btc.view(b, t, 3, self.n_head, -1)
        q_bhtd, k_bhtd, v_bhtd = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        y_bhtd = F.scaled_dot_product_attention(q_bhtd, k_bhtd, v_bhtd, dropout_p=dropout, is_causal=True)
        return y_bhtd.transpose(1, 2).reshape(b, t, c3 // 3)


class MLP(nn.Module):
    """Two linear layers around GELU in its tanh form (Hendrycks and Gimpel 2016; "gelu_new")."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, std=residual_std(config.n_layer))

    def forward(self, x_btc: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C], each token by itself."""
        y_btc = self.c_proj(F.gelu(self.c_fc(x_btc), approximate="tanh"))
        return F.dropout(y_btc, self.dropout, self.training)


class Block(nn.Module):
    """Attention, then MLP, each added to a residual stream that is normalised before them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPSILON)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPSILON)
        self.mlp = MLP(config)

    def forward(self, x_btc: Tensor, documents: DocumentLayout | None = None) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        x_btc = x_btc + self.attn(self.ln_1(x_btc), documents=documents)
        y_btc: Tensor = x_btc + self.mlp(self.ln_2(x_btc))
        return y_btc


class GPT(nn.Module):
    """A GPT-2 whose output layer is its token embedding.

    The same torch seed gives the same parameters; on the meta device it is built without memory.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.max_seq_len, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPSILON)

    def forward(
        self,
        tokens_bt: Tensor,
        labels_bt: Tensor | None = None,
        weights_bt: Tensor | None = None,
        *,
        documents: DocumentLayout | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits, or the loss where labels are given.

        tokens_bt, labels_bt: int64 [B, T], T up to max_seq_len, ids below real_vocab_size. weights_bt: float [B, T]
        (default: ones). With labels: the scalar float32 sum (not the mean) of weight * cross-entropy in nats. Without:
        logits [B, T, V], or [B, 1, V] of the last token with `last_only`; ids that only pad the vocabulary have -inf.
        documents: where a row holds several; the result for each is then that of the document alone, but for labels,
        which are the caller's. Raises ModelError if T exceeds max_seq_len or `documents` is of another shape.
        """
        x_btc = self._hidden(tokens_bt, documents)
        # Read here, in this module's own forward: ZeRO stage 3 gathers a parameter of another module only then.
        weight_vc = self.wte.weight
        if labels_bt is None:
            logits_btv = F.linear(x_btc[:, -1:] if last_only else x_btc, weight_vc)
            logits_btv[..., self.config.real_vocab_size :] = -torch.inf
            return logits_btv
        if weights_bt is None:
            weights_bt = torch.ones_like(labels_bt, dtype=torch.float32)
        return chunked_cross_entropy(
            x_btc.flatten(0, 1), weight_vc, labels_bt.flatten(), weights_bt.flatten(), self.config.real_vocab_size
        )

    def _hidden(self, tokens_bt: Tensor, documents: DocumentLayout | None) -> Tensor:
        """The normalised residual stream after the last block, [B, T, C]."""
        x_btc = self.wte(tokens_bt) + self.wpe(self._positions(tokens_bt, documents))
        x_btc = F.dropout(x_btc, self.config.dropout, self.training)
        for layer, block in enumerate(self.h):
            if self.training and torch.is_grad_enabled() and self.config.is_checkpointed(layer):
                x_btc = checkpoint(block, x_btc, documents=documents, use_reentrant=False, preserve_rng_state=True)
            else:
                x_btc = block(x_btc, documents=documents)
        y_btc: Tensor = self.ln_f(x_btc)
        return y_btc

    def _positions(self, tokens_bt: Tensor, documents: DocumentLayout | None) -> Tensor:
        """Each token's position in its document, int64 [B, T], or [T] where every row is one."""
        t = tokens_bt.shape[1]
        if t > self.config.max_seq_len:
            raise ModelError(f"the text has {t} tokens; model.max_seq_len is {self.config.max_seq_len}: shorten it")
        if documents is None:
            return torch.arange(t, device=tokens_bt.device)
        if documents.positions_bt.shape != tokens_bt.shape:
            given, wanted = tuple(documents.positions_bt.shape), tuple(tokens_bt.shape)
            raise ModelError(f"the documents are laid out for rows and tokens {given}; the batch has {wanted}")
        return documents.positions_bt
