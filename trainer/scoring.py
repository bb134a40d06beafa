"""How likely a model finds given texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.gpt import GPT
from trainer.errors import TrainError
from trainer.language_model import LanguageModel

# Logits held at once: 256 MB of them.
_MOST_LOGITS = 1 << 26


class Continuation(NamedTuple):
    """Tokens to be scored, and those before them (at least one)."""

    context_ids: Sequence[int]
    ids: Sequence[int]


class Score(NamedTuple):
    """Of a continuation: the sum of its tokens' log-probabilities in nats, and whether each is the likeliest."""

    log_likelihood: float
    is_greedy: bool


class _Window(NamedTuple):
    continuation: int
    input_ids: Sequence[int]
    target_ids: Sequence[int]  # what the last inputs are to predict


def windows(context_ids: Sequence[int], ids: Sequence[int], size: int) -> Iterator[tuple[list[int], list[int]]]:
    """(inputs, targets), of which each of `ids` is a target once, with as many tokens before it as `size` lets.

    Targets are predicted by the last inputs. Up to `size` ids make one window, whose context is cut at its beginning;
    more are taken `size` at a time, as lm-evaluation-harness's rolling log-likelihood does.
    """
    tokens, first = [*context_ids, *ids], len(context_ids)
    while first < len(tokens):
        end = min(len(tokens), first + size)
        yield tokens[max(0, end - 1 - size) : end - 1], tokens[first:end]
        first = end


def score(model: GPT, continuations: Sequence[Continuation]) -> list[Score]:
    """The likelihood of each continuation, in batches of about equal length.

    Raises TrainError for one without context, which nothing would predict.
    """
    jobs: list[_Window] = []
    for number, continuation in enumerate(continuations):
        if not continuation.context_ids:
            raise TrainError("a text to be scored has no token before it; begin it with the end-of-text token")
        found = windows(continuation.context_ids, continuation.ids, model.config.max_seq_len)
        jobs += [_Window(number, *window) for window in found]
    sums, greedy = [0.0] * len(continuations), [True] * len(continuations)
    jobs.sort(key=lambda job: len(job.input_ids))
    for batch in _batches(jobs, model.config.vocab_size):
        for job, result in zip(batch, _score_batch(model, batch), strict=True):
            sums[job.continuation] += result.log_likelihood
            greedy[job.continuation] &= result.is_greedy
    return [Score(*pair) for pair in zip(sums, greedy, strict=True)]


def rows_at_once(seq_len: int, vocab_size: int, most: int = 64) -> int:
    """Rows whose logits fit in 256 MB, at least one."""
    return max(1, min(most, _MOST_LOGITS // (seq_len * vocab_size)))


def encode_pair(language_model: LanguageModel, context: str, continuation: str) -> Continuation:
    """A text's tokens, cut where its context ends, as lm-evaluation-harness cuts them.

    Spaces at the end of the context go to the continuation, since tokens begin with them. An empty context is the
    end-of-text token, or what else begins each text.
    """
    kept = context.rstrip()
    continuation, context = context[len(kept) :] + continuation, kept
    prefix = list(language_model.prefix_ids)
    if not context:
        return Continuation(prefix or [language_model.eot_id], language_model.encode(continuation))
    context_ids = language_model.encode(context)
    whole = language_model.encode(context + continuation)
    return Continuation(prefix + context_ids, whole[len(context_ids) :])


def _batches(jobs: Sequence[_Window], vocab_size: int) -> Iterator[Sequence[_Window]]:
    """Neighbours together, few enough for their logits; `jobs` by rising length."""
    end = len(jobs)
    while end:
        start = max(0, end - rows_at_once(len(jobs[end - 1].input_ids), vocab_size))
        yield jobs[start:end]
        end = start


@torch.no_grad()
def _score_batch(model: GPT, batch: Sequence[_Window]) -> list[Score]:
    width = max(len(window.input_ids) for window in batch)
    # Padding comes after what is scored, so nothing that counts sees it.
    rows = [[*window.input_ids, *[0] * (width - len(window.input_ids))] for window in batch]
    logits_btv = model(torch.tensor(rows, device=model.wte.weight.device))
    return [_score_row(logits_tv, window) for logits_tv, window in zip(logits_btv, batch, strict=True)]


def _score_row(logits_tv: Tensor, window: _Window) -> Score:
    end = len(window.input_ids)
    logits_nv = logits_tv[end - len(window.target_ids) : end].float()
    targets_n = torch.tensor(window.target_ids, device=logits_nv.device)
    log_p_n = -F.cross_entropy(logits_nv, targets_n, reduction="none")
    return Score(float(log_p_n.double().sum()), bool((logits_nv.argmax(-1) == targets_n).all()))
