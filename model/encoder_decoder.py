"""An encoder over a text's beginning and a decoder over the rest (Vaswani et al. 2017), trained as a prefix LM's task.

A variant: the published GPT models are decoders only. Its blocks are theirs, but that the encoder's see the whole
beginning in both directions, and the decoder's attend to the encoder's output after themselves. Embeddings are shared.

A text is cut at a token that is the encoder's last and the decoder's first input, so that the decoder's first output is
the first token after the encoder's. Both stacks run over whole rows under masks: shapes do not depend on the cuts, and
several documents in a row, each with a cut of its own, cost nothing more.

Letters in names and comments as in `model.gpt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.attention import CrossAttention
from model.cache import DecoderCache, KeyValueCache
from model.config import GPTConfig
from model.documents import DocumentLayout
from model.errors import ModelError
from model.gpt import GPT, Block
from model.layers import make_norm
from model.recomputation import run_recomputed
from model.rotary import Rotation


class Masks(NamedTuple):
    """Which tokens each token sees, bool [B, 1, T, T] of (who sees, who is seen)."""

    encoder: Tensor
    decoder: Tensor
    cross: Tensor  # who is seen: tokens as the encoder put them out


class DecoderBlock(Block):
    """Attention, attention to the encoder's output, and MLP, each added to the residual stream."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.ln_cross_attn = make_norm(config)
        self.crossattention = CrossAttention(config, layer)

    def forward(  # type: ignore[override]  # it needs a memory, and takes no documents: the masks part them
        self,
        x_btc: Tensor,
        memory_btc: Tensor | None,
        rotation: Rotation | None,
        masks: Masks | None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """[B, T, C] to [B, T, C]. memory_btc: the encoder's output, [B, T, C], which a cache that has read it stands
        for. With a cache there are no masks: all is seen that is kept."""
        own, cross = (None, None) if masks is None else (masks.decoder, masks.cross)
        if self.order == "after":
            x_btc = self.ln_1(x_btc + self.attn(x_btc, None, rotation, cache, own))
            x_btc = self.ln_cross_attn(x_btc + self.crossattention(x_btc, memory_btc, cross, cache))
            after: Tensor = self.ln_2(x_btc + self.mlp(x_btc))
            return after
        x_btc = x_btc + self.attn(self.ln_1(x_btc), None, rotation, cache, own)
        x_btc = x_btc + self.crossattention(self.ln_cross_attn(x_btc), memory_btc, cross, cache)
        y_btc: Tensor = x_btc + self.mlp(self.ln_2(x_btc))
        return y_btc


class EncoderDecoder(GPT):
    """A GPT whose config's arch is encoder_decoder; called as one, with the cuts beside the tokens.

    decoder_starts_bt: int64 [B, T]: for each token, where in its row the decoder's first input of its document stands;
    the encoder sees the document's tokens up to and with it. Before it, logits mean nothing: their labels must have
    weight 0. It is needed, and ModelError is raised without it, but with a `DecoderCache`: then tokens_bt is first a
    whole prompt [1, T], which the encoder reads and whose last token the decoder begins with, and afterwards what the
    decoder goes on with; logits are those of the decoder's tokens.
    """

    block_type = DecoderBlock

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.encoder = nn.ModuleList(Block(config, layer) for layer in range(config.encoder_layers))
        if config.norm_place == "before":
            self.encoder_ln_f = make_norm(config)

    def _hidden(
        self,
        tokens_bt: Tensor,
        documents: DocumentLayout | None,
        cache: KeyValueCache | None,
        embedding_shift_btc: Tensor | None,
        decoder_starts_bt: Tensor | None,
    ) -> Tensor:
        if isinstance(cache, DecoderCache):
            return self._continued(tokens_bt, cache)
        if decoder_starts_bt is None or cache is not None:
            raise ModelError(
                "model.arch is encoder_decoder, which must be told where its texts are cut, or be given a cache for "
                "one that its encoder reads: use model.encoder_decoder.continue_greedily to generate"
            )
        positions = self._positions(tokens_bt, documents, None)
        masks = attention_masks(decoder_starts_bt, documents)
        x_btc, turns = self._embedded(tokens_bt, positions, embedding_shift_btc)
        return self._decoded(x_btc, self._encoded(x_btc, turns, masks.encoder), turns, masks)

    def _continued(self, tokens_bt: Tensor, cache: DecoderCache) -> Tensor:
        """The residual stream of the decoder's next tokens, [1, T, C], of which the cache is extended."""
        memory_btc = None
        if not cache.of_encoder:
            x_btc, turns = self._embedded(tokens_bt, self._positions(tokens_bt, None, None))
            memory_btc = self._encoded(x_btc, turns, None)
            tokens_bt = tokens_bt[:, -1:]
        x_btc, turns = self._embedded(tokens_bt, cache.positions(tokens_bt.shape[1]))
        y_btc = self._decoded(x_btc, memory_btc, turns, None, cache)
        cache.advance(tokens_bt.shape[1])
        return y_btc

    def _encoded(self, x_btc: Tensor, turns: Rotation | None, mask: Tensor | None) -> Tensor:
        """The encoder's output, [B, T, C]; without a mask every token sees all."""
        if mask is None:
            mask = torch.ones(x_btc.shape[1], x_btc.shape[1], dtype=torch.bool, device=x_btc.device)
        for layer, block in enumerate(self.encoder):
            x_btc = self._run(layer, block, x_btc, None, turns, None, mask)
        return torch.as_tensor(self.encoder_ln_f(x_btc)) if self.config.norm_place == "before" else x_btc

    def _decoded(
        self,
        x_btc: Tensor,
        memory_btc: Tensor | None,
        turns: Rotation | None,
        masks: Masks | None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """The decoder's residual stream after the last norm, [B, T, C]."""
        for layer, block in enumerate(self.h):
            x_btc = self._run(layer, block, x_btc, memory_btc, turns, masks, cache)
        return self._last_norm(x_btc)

    def _run(self, layer: int, block: nn.Module, x_btc: Tensor, *others: Any) -> Tensor:
        if self._is_recomputed(layer):
            return run_recomputed(self.config.activation_checkpointing, block, x_btc, *others)
        return torch.as_tensor(block(x_btc, *others))


def attention_masks(decoder_starts_bt: Tensor, documents: DocumentLayout | None = None) -> Masks:
    """Who sees whom, within each document, if a row holds several.

    decoder_starts_bt: int64 [B, T], as in `EncoderDecoder.forward`. The encoder's tokens, seen by all, are those up to
    their document's start of the decoder; the decoder's are those from there on, seen by later ones. Every token sees
    at least itself, or a token of the encoder: so no softmax is over nothing.
    """
    b, t = decoder_starts_bt.shape
    places = torch.arange(t, device=decoder_starts_bt.device)
    same = torch.ones(b, t, t, dtype=torch.bool, device=places.device)
    if documents is not None:
        document_bt = (documents.positions_bt == 0).cumsum(1)
        same = document_bt[:, :, None] == document_bt[:, None, :]
    to_encoder = same & (places <= decoder_starts_bt)[:, None, :]
    causal = places[None, :] <= places[:, None]
    is_itself = torch.eye(t, dtype=torch.bool, device=places.device)
    to_decoder = same & causal & (places >= decoder_starts_bt)[:, None, :] | is_itself
    return Masks(encoder=to_encoder[:, None], decoder=to_decoder[:, None], cross=to_encoder[:, None])


def build_model(config: GPTConfig) -> GPT:
    """The model of a shape: a decoder, or an encoder-decoder, which is to be told where texts are cut."""
    return EncoderDecoder(config) if config.arch == "encoder_decoder" else GPT(config)


@torch.no_grad()
def continue_greedily(model: GPT, prompt_ids: Sequence[int], max_new_tokens: int, *, eot_id: int) -> list[int]:
    """The likeliest continuation, token by token, of a prompt that the encoder sees whole; the new ids alone.

    At most `max_new_tokens`, and as many as max_seq_len leaves room for, ending before an `eot_id`. An empty prompt
    stands for `eot_id`. The encoder reads once, and each token costs a pass of the decoder over itself alone. The
    model's training mode stays as it was.
    Raises ModelError for a prompt longer than max_seq_len, or an id outside the vocabulary.
    """
    ids, weight = list(prompt_ids) or [eot_id], model.wte.weight
    _check_prompt(ids, model.config)
    room = model.config.max_seq_len - len(ids) + 1
    cache = DecoderCache(model.config, len(ids) - 1, room, weight.dtype, weight.device)
    was_training = model.training
    new_ids: list[int] = []
    tokens = ids
    model.eval()
    while len(new_ids) < min(max_new_tokens, room):
        logits_b1v = model(torch.tensor([tokens], device=weight.device), last_only=True, cache=cache)
        next_id = int(logits_b1v[0, -1].argmax())
        if next_id == eot_id:
            break
        new_ids.append(next_id)
        tokens = [next_id]
    model.train(was_training)
    return new_ids


def _check_prompt(ids: Sequence[int], config: GPTConfig) -> None:
    if len(ids) > config.max_seq_len:
        raise ModelError(f"the prompt has {len(ids)} tokens; model.max_seq_len is {config.max_seq_len}: shorten it")
    outside = [i for i in ids if not 0 <= i < config.real_vocab_size]
    if outside:
        raise ModelError(
            f"the prompt has token id {outside[0]}, the model's vocabulary has {config.real_vocab_size}: "
            "encode it with the tokenizer that the model was trained with"
        )
