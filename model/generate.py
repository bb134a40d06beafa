"""Text from a model, a token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.config import GPTConfig
from model.errors import ModelError
from model.gpt import GPT


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
    """Continue a prompt; the new ids alone are returned, at most `max_new_tokens`, ending before an `eot_id`.

    Each is drawn from softmax(logits / temperature) over the `top_k` likeliest ids (default: all); at temperature 0
    it is the likeliest. An empty prompt begins a document (it stands for `eot_id`). Beyond max_seq_len tokens the
    model sees the last max_seq_len. The same seed draws the same text; torch's global random state and the model's
    training mode stay as they were. The cost of a token is a forward pass over all before it.
    Raises ModelError for an id outside the vocabulary or a setting outside its range.
    """
    _check(model.config, prompt_ids, max_new_tokens, temperature, top_k)
    generator = torch.Generator().manual_seed(seed)
    device = model.wte.weight.device
    ids = list(prompt_ids) or [eot_id]
    new_ids: list[int] = []
    with torch.no_grad(), _evaluating(model):
        while len(new_ids) < max_new_tokens:
            window = torch.tensor([ids[-model.config.max_seq_len :]], device=device)
            logits_btv = model(window, last_only=True)
            logits_v = logits_btv[0, -1, : model.config.real_vocab_size].float().cpu()
            next_id = _draw(logits_v, temperature, top_k, generator)
            if next_id == eot_id:
                break
            ids.append(next_id)
            new_ids.append(next_id)
    return new_ids


def _draw(logits_v: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    if temperature == 0.0:
        return int(logits_v.argmax())
    if top_k is not None and top_k < len(logits_v):
        values, candidates = logits_v.topk(top_k)
        return int(candidates[_sample(values / temperature, generator)])
    return _sample(logits_v / temperature, generator)


def _sample(logits: Tensor, generator: torch.Generator) -> int:
    return int(torch.multinomial(torch.softmax(logits, dim=0), 1, generator=generator))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _check(
    config: GPTConfig, prompt_ids: Sequence[int], max_new_tokens: int, temperature: float, top_k: int | None
) -> None:
    outside = [i for i in prompt_ids if not 0 <= i < config.real_vocab_size]
    if outside:
        raise ModelError(
            f"the prompt has token id {outside[0]}, the model's vocabulary has {config.real_vocab_size}: "
            "encode it with the tokenizer that the model was trained with"
        )
    if max_new_tokens < 0:
        raise ModelError(f"max_new_tokens is {max_new_tokens}; it must be at least 0")
    if temperature < 0.0:
        raise ModelError(f"temperature is {temperature}; it must be at least 0 (0 takes the likeliest token)")
    if top_k is not None and top_k < 1:
        raise ModelError(f"top_k is {top_k}; it must be at least 1, or left out")
