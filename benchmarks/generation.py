"""What the cache of keys and values saves: text of 512 tokens with it and without it, on one CPU core.

`python -m benchmarks.generation` lets random models write greedily from a prompt of 16 tokens until there are 512, with
`model.generate` and by a pass over all tokens for each new one. The tokens of both are compared first. Arms take turns;
each figure is the least of the repetitions, in CPU time, since other work on the machine only adds. It goes on to
batches of prompts, whose tokens per second grow with the rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from model.config import GPTConfig
from model.generate import generate_batch
from model.gpt import GPT
from model.sampling import Sampling

PROMPT_TOKENS, TOKENS = 16, 512
GREEDY, NO_END = Sampling(temperature=0.0), -1
BATCHES = (1, 4, 16)


class Shape(NamedTuple):
    """A model's size."""

    name: str
    n_layer: int
    n_head: int
    n_embd: int
    vocab_size: int


SHAPES = [Shape("gpt2-tiny", 4, 4, 256, 8192), Shape("gpt2", 12, 12, 768, 50304)]


def build(shape: Shape) -> GPT:
    """Random weights, sharp enough that rounding does not choose."""
    torch.manual_seed(0)
    fields = shape._asdict()
    del fields["name"]
    model = GPT(GPTConfig(**fields, real_vocab_size=shape.vocab_size, max_seq_len=1024))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3.0)
    return model.eval()


def prompts(shape: Shape, rows: int) -> list[list[int]]:
    """Random tokens."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(shape.vocab_size, (rows, PROMPT_TOKENS), generator=generator).tolist()


def with_cache(model: GPT, rows: list[list[int]]) -> list[list[int]]:
    """New tokens by `model.generate`."""
    return generate_batch(model, rows, TOKENS - PROMPT_TOKENS, GREEDY, seed=0, eot_id=NO_END)


def without_cache(model: GPT, prompt: list[int]) -> list[int]:
    """New tokens, each by a pass over all before it."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < TOKENS:
            ids.append(int(model(torch.tensor([ids]), last_only=True)[0, -1].argmax()))
    return ids[PROMPT_TOKENS:]


def cpu_seconds(arm: Callable[[], object]) -> float:
    """CPU time of one call."""
    began = time.process_time()
    arm()
    return time.process_time() - began


def report(shape: Shape, repetitions: int) -> str:
    """A row for the cache, and one for each batch."""
    model, [prompt] = build(shape), prompts(shape, 1)
    assert with_cache(model, [prompt]) == [without_cache(model, prompt)]
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(repetitions):
        seconds["with"].append(cpu_seconds(lambda: with_cache(model, [prompt])))
        seconds["without"].append(cpu_seconds(lambda: without_cache(model, prompt)))
    kept, anew = min(seconds["with"]), min(seconds["without"])
    lines = [f"{shape.name}: {kept:.2f} s with the cache, {anew:.2f} s without: {anew / kept:.1f} times; same tokens"]
    for rows in BATCHES:
        batch = prompts(shape, rows)
        least = min(cpu_seconds(lambda batch=batch: with_cache(model, batch)) for _ in range(repetitions))
        lines.append(f"{shape.name}: {rows} prompts: {rows * (TOKENS - PROMPT_TOKENS) / least:,.0f} tokens/s")
    return "\n".join(lines)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", default=["gpt2-tiny"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for shape in SHAPES:
        if shape.name in args.shapes:
            print(report(shape, args.repetitions), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
