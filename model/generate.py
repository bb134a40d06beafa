"""Tokens from a model, one at a time for each of several prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.cache import KeyValueCache
from model.config import GPTConfig
from model.errors import ModelError
from model.gpt import GPT
from model.sampling import Sampling, draw


class NewToken(NamedTuple):
    """What a step gave a row."""

    row: int  # number of its prompt
    id: int | None  # None: it ended, by the end-of-text token
    is_last: bool


class Generation:
    """Rows that grow by a token a step; those that are done leave the batch.

    Keys and values are kept, so that a token costs a pass over itself alone. A row that outgrows max_seq_len is seen
    through its last max_seq_len tokens, whose positions begin anew with each: from there on, each of its tokens costs
    a pass over that whole window. Rows may be of unequal length (the shorter begin with padding that nobody sees). What
    a row becomes depends on the others by the rounding of the products alone. torch's global random state and the
    model's training mode stay as they were. The model is a GPT, or what a DeepSpeed engine has made of one.
    """

    def __init__(
        self,
        model: GPT,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling,
        *,
        seeds: Sequence[int],
        eot_id: int,
    ) -> None:
        """An empty prompt begins a document (it stands for `eot_id`); each row draws by its own one of the `seeds`.

        Raises ModelError for an id outside the vocabulary or a negative number of tokens.
        """
        _check(model.config, prompts, max_new_tokens)
        self._model, self._sampling, self._eot_id = model, sampling, eot_id
        self._max_new_tokens, self._window = max_new_tokens, model.config.max_seq_len
        rows = [
            _Row(number, list(ids) or [eot_id], seed, model.config.real_vocab_size)
            for number, (ids, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        self._kept: list[_Row] = rows if max_new_tokens else []  # in the order of the cache
        self._sliding: list[_Row] = []
        self._cache: KeyValueCache | None = None

    def step(self) -> list[NewToken]:
        """One more token for each row that is under way; nothing once all are done."""
        self._leave()
        with torch.no_grad(), _evaluating(self._model):
            logits = [*self._kept_logits(), *self._sliding_logits()]
        rows = self._kept + self._sliding
        return [self._extend(row, logits_v) for row, logits_v in zip(rows, logits, strict=True)]

    def finish(self, row: int) -> None:
        """That row gets no more tokens."""
        for candidate in self._kept + self._sliding:
            candidate.is_done |= candidate.number == row

    def _leave(self) -> None:
        """Rows that are done go, and those that have outgrown the window slide from now on."""
        self._sliding = [row for row in self._sliding if not row.is_done]
        outgrown = [row for row in self._kept if len(row.ids) > self._window and not row.is_done]
        staying = [i for i, row in enumerate(self._kept) if len(row.ids) <= self._window and not row.is_done]
        if len(staying) < len(self._kept):
            self._kept = [self._kept[i] for i in staying]
            self._sliding += outgrown
            if self._cache is not None:
                self._cache.keep_rows(torch.tensor(staying, dtype=torch.int64))

    def _kept_logits(self) -> Tensor:
        """Logits of the rows with a cache, float32 [rows, V] on the CPU."""
        if not self._kept:
            return torch.empty(0)
        if self._cache is None or self._cache.length == self._cache.capacity:
            return self._begin_cache()
        return self._logits([row.ids[-1:] for row in self._kept])

    def _begin_cache(self) -> Tensor:
        """At the start, and where the longest rows are gone and the others have only used up the place by padding."""
        width = max(len(row.ids) for row in self._kept)
        padding = [width - len(row.ids) for row in self._kept]
        left = self._max_new_tokens - min(row.new_tokens for row in self._kept)
        weight = self._model.wte.weight
        self._cache = KeyValueCache(
            self._model.config,
            len(self._kept),
            min(self._window, width + left),
            torch.tensor(padding, dtype=torch.int64),
            weight.dtype,
            weight.device,
        )
        padded = [[0] * pad + row.ids for pad, row in zip(padding, self._kept, strict=True)]
        return self._logits(padded)

    def _sliding_logits(self) -> Tensor:
        if not self._sliding:
            return torch.empty(0)
        return self._logits([row.ids[-self._window :] for row in self._sliding], is_kept=False)

    def _logits(self, tokens: list[list[int]], is_kept: bool = True) -> Tensor:
        tokens_bt = torch.tensor(tokens, device=self._model.wte.weight.device)
        logits_b1v = self._model(tokens_bt, last_only=True, cache=self._cache if is_kept else None)
        logits_bv: Tensor = logits_b1v[:, -1, : self._model.config.real_vocab_size].float().cpu()
        return logits_bv

    def _extend(self, row: _Row, logits_v: Tensor) -> NewToken:
        token_id = draw(logits_v, row.seen_v, self._sampling, row.generator)
        if token_id == self._eot_id:
            row.is_done = True
            return NewToken(row.number, None, True)
        row.append(token_id)
        row.is_done = row.new_tokens == self._max_new_tokens
        return NewToken(row.number, token_id, row.is_done)


class _Row:
    def __init__(self, number: int, ids: list[int], seed: int, vocab_size: int) -> None:
        self.number, self.ids = number, ids
        self.generator = torch.Generator().manual_seed(seed)
        self.seen_v = torch.zeros(vocab_size, dtype=torch.bool)
        self.seen_v[ids] = True
        self.new_tokens = 0
        self.is_done = False

    def append(self, token_id: int) -> None:
        self.ids.append(token_id)
        self.seen_v[token_id] = True
        self.new_tokens += 1


def row_seed(seed: int, row: int) -> int:
    """The seed of a row among those of one seed; the first has the seed itself, as a prompt that is alone."""
    if row == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generate(
    model: GPT,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int,
    eot_id: int,
) -> list[int]:
    """Continue one prompt; the new ids alone are returned, at most `max_new_tokens`, ending before an `eot_id`.

    See `Generation` and `Sampling`. The same seed draws the same text.
    """
    sampling = Sampling(temperature, top_k)
    [ids] = generate_batch(model, [prompt_ids], max_new_tokens, sampling, seed=seed, eot_id=eot_id)
    return ids


def generate_batch(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    *,
    seed: int,
    eot_id: int,
) -> list[list[int]]:
    """Continue several prompts together; the new ids of each, as `generate` gives them. Raises ModelError."""
    seeds = [row_seed(seed, row) for row in range(len(prompts))]
    generation = Generation(model, prompts, max_new_tokens, sampling, seeds=seeds, eot_id=eot_id)
    new_ids: list[list[int]] = [[] for _ in prompts]
    while tokens := generation.step():
        for token in tokens:
            if token.id is not None:
                new_ids[token.row].append(token.id)
    return new_ids


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


def _check(config: GPTConfig, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    outside = [i for ids in prompts for i in ids if not 0 <= i < config.real_vocab_size]
    if outside:
        raise ModelError(
            f"the prompt has token id {outside[0]}, the model's vocabulary has {config.real_vocab_size}: "
            "encode it with the tokenizer that the model was trained with"
        )
    if max_new_tokens < 0:
        raise ModelError(f"max_new_tokens is {max_new_tokens}; it must be at least 0")
