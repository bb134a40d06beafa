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
from model.cache import KeyValueCache
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
        self.crossattention = CrossAttention(config)

    def forward(  # type: ignore[override]  # it needs a memory, and takes neither documents nor a cache
        self, x_btc: Tensor, memory_btc: Tensor, rotation: Rotation | None, masks: Masks
    ) -> Tensor:
        """[B, T, C] to [B, T, C]; memory_btc: the encoder's output, [B, T, C]."""
        if self.order == "after":
            x_btc = self.ln_1(x_btc + self.attn(x_btc, rotation=rotation, mask=masks.decoder))
            x_btc = self.ln_cross_attn(x_btc + self.crossattention(x_btc, memory_btc, masks.cross))
            after: Tensor = self.ln_2(x_btc + self.mlp(x_btc))
            return after
        x_btc = x_btc + self.attn(self.ln_1(x_btc), rotation=rotation, mask=masks.decoder)
        x_btc = x_btc + self.crossattention(self.ln_cross_attn(x_btc), memory_btc, masks.cross)
        y_btc: Tensor = x_btc + self.mlp(self.ln_2(x_btc))
        return y_btc


class EncoderDecoder(GPT):
    """A GPT whose config's arch is encoder_decoder; called as one, with the cuts beside the tokens."""

    block_type = DecoderBlock

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.encoder = nn.ModuleList(Block(config, layer) for layer in range(config.encoder_layers))
        if config.norm_place == "before":
            self.encoder_ln_f = make_norm(config)

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
        """Logits, or the loss where labels are given: as `GPT.forward`, at the decoder's tokens.

        decoder_starts_bt: int64 [B, T]: for each token, where in its row the decoder's first input of its document
        stands; the encoder sees the document's tokens up to and with it. Before it, logits mean nothing: their labels
        must have weight 0. Raises ModelError also without decoder_starts_bt, or with a cache, which is not supported.
        """
        if decoder_starts_bt is None or cache is not None:
            raise ModelError(
                "model.arch is encoder_decoder, which must be told where its texts are cut, and has no cache of keys "
                "and values: use model.encoder_decoder.continue_greedily to generate"
            )
        positions = self._positions(tokens_bt, documents, None)
        masks = attention_masks(decoder_starts_bt, documents)
        x_btc, turns = self._embedded(tokens_bt, positions, embedding_shift_btc)
        y_btc = self._decoded(x_btc, self._encoded(x_btc, turns, masks), turns, masks)
        return self._result(y_btc, labels_bt, weights_bt, last_only)

    def _encoded(self, x_btc: Tensor, turns: Rotation | None, masks: Masks) -> Tensor:
        """The encoder's output, [B, T, C]."""
        for layer, block in enumerate(self.encoder):
            x_btc = self._run(layer, block, x_btc, None, turns, None, masks.encoder)
        return torch.as_tensor(self.encoder_ln_f(x_btc)) if self.config.norm_place == "before" else x_btc

    def _decoded(self, x_btc: Tensor, memory_btc: Tensor, turns: Rotation | None, masks: Masks) -> Tensor:
        """The decoder's residual stream after the last norm, [B, T, C]."""
        for layer, block in enumerate(self.h):
            x_btc = self._run(layer, block, x_btc, memory_btc, turns, masks)
        return torch.as_tensor(self.ln_f(x_btc)) if self.config.norm_place == "before" else x_btc

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
    stands for `eot_id`. Each token costs a pass over all of them. The model's training mode stays as it was.
    Raises ModelError for a prompt longer than max_seq_len, or an id outside the vocabulary.
    """
    ids, limit = list(prompt_ids) or [eot_id], model.config.max_seq_len
    _check_prompt(ids, model.config)
    was_training, device = model.training, model.wte.weight.device
    start = len(ids) - 1
    new_ids: list[int] = []
    model.eval()
    while len(new_ids) < max_new_tokens and len(ids) <= limit:
        tokens_bt = torch.tensor([ids], device=device)
        logits_btv = model(tokens_bt, last_only=True, decoder_starts_bt=torch.full_like(tokens_bt, start))
        next_id = int(logits_btv[0, -1].argmax())
        if next_id == eot_id:
            break
        ids.append(next_id)
        new_ids.append(next_id)
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
