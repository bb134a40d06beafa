"""What it costs to keep documents apart: forward and backward passes of attention and of a whole GPT on one CPU core.

`python -m benchmarks.packing` compares, in CPU time, a batch as one stream, the same batch with documents apart
(`data.packing: documents`), and attention under a dense block-diagonal mask. The results of the last two are compared
first. Arms take turns; each figure is the least of the repetitions, since other work on the machine only adds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import GPTConfig
from model.documents import DocumentLayout, document_layout
from model.gpt import GPT, Attention

VOCABULARY = 8192


class Shape(NamedTuple):
    """A batch and a model."""

    rows: int
    seq_len: int
    n_embd: int
    n_layer: int
    dropout: float


SHAPES = [Shape(8, 256, 256, 4, 0.0), Shape(8, 1024, 256, 4, 0.0), Shape(2, 1024, 768, 2, 0.0)]
WITH_DROPOUT = [shape._replace(dropout=0.1) for shape in SHAPES[:2]]
HEAD_WIDTH = 64
DOCUMENT_TOKENS = [(100, 300), (20, 60)]


def row_lengths(shape: Shape, least: int, most: int) -> np.ndarray:
    """Lengths of documents, drawn evenly, the last of each row cut."""
    generator = np.random.default_rng(0)
    lengths: list[int] = []
    for _ in range(shape.rows):
        left = shape.seq_len
        while left:
            lengths.append(min(left, int(generator.integers(least, most + 1))))
            left -= lengths[-1]
    return np.array(lengths)


class DenseMaskAttention(Attention):
    """Attention under a mask of all pairs of tokens, for comparison."""

    mask_b1tt: Tensor

    def _attend(self, qkv_btc: Tensor) -> Tensor:
        b, t, c3 = qkv_btc.shape
        q_bhtd, k_bhtd, v_bhtd = qkv_btc.view(b, t, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        y_bhtd = F.scaled_dot_product_attention(q_bhtd, k_bhtd, v_bhtd, attn_mask=self.mask_b1tt, dropout_p=dropout)
        return y_bhtd.transpose(1, 2).reshape(b, t, c3 // 3)


def dense_mask(layout: DocumentLayout) -> Tensor:
    """Which tokens see which, bool [B, 1, T, T]."""
    document_bt = (layout.positions_bt == 0).cumsum(dim=1)
    same = document_bt[:, :, None] == document_bt[:, None, :]
    return same.tril()[:, None]


def least_milliseconds(arms: Mapping[str, Callable[[], None]], repetitions: int) -> dict[str, float]:
    """CPU time of each arm, the first turn left out."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repetitions + 1):
        for name, arm in arms.items():
            began = time.process_time()
            arm()
            seconds[name].append(time.process_time() - began)
    return {name: 1000 * min(values[1:]) for name, values in seconds.items()}


def attention_arms(config: GPTConfig, layout: DocumentLayout) -> dict[str, Callable[[], None]]:
    """Attention with its projections, forward and backward. Raises AssertionError if documents differ from the mask."""
    attention, dense = Attention(config), DenseMaskAttention(config)
    dense.load_state_dict(attention.state_dict())
    dense.mask_b1tt = dense_mask(layout)
    x_btc = torch.randn(*layout.positions_bt.shape, config.n_embd, requires_grad=True)
    with torch.no_grad():
        torch.testing.assert_close(attention.eval()(x_btc, layout), dense.eval()(x_btc), rtol=0, atol=1e-5)

    def run(module: Attention, documents: DocumentLayout | None) -> None:
        x_btc.grad = None
        module.train().zero_grad()
        module(x_btc, documents).sum().backward()

    return {
        "stream": lambda: run(attention, None),
        "documents": lambda: run(attention, layout),
        "dense mask": lambda: run(dense, None),
    }


def model_arms(config: GPTConfig, layout: DocumentLayout) -> dict[str, Callable[[], None]]:
    """A whole GPT, loss and gradients."""
    model = GPT(config)
    tokens, labels = torch.randint(VOCABULARY, (2, *layout.positions_bt.shape))

    def run(documents: DocumentLayout | None) -> None:
        model.zero_grad()
        model(tokens, labels, documents=documents).backward()

    return {"stream": lambda: run(None), "documents": lambda: run(layout)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| B x T x C, layers, dropout | tokens per document | attention: stream, documents, dense mask, ms |", end="")  # noqa: T201
    print(" documents / stream | model: stream, documents, ms | documents / stream |\n|---|---|---|---|---|---|")  # noqa: T201
    for shape in SHAPES + WITH_DROPOUT:
        config = GPTConfig(
            vocab_size=VOCABULARY,
            real_vocab_size=VOCABULARY,
            n_layer=shape.n_layer,
            n_head=shape.n_embd // HEAD_WIDTH,
            n_embd=shape.n_embd,
            max_seq_len=shape.seq_len,
            dropout=shape.dropout,
        )
        for least, most in DOCUMENT_TOKENS:
            layout = document_layout(row_lengths(shape, least, most), shape.seq_len)
            attention = least_milliseconds(attention_arms(config, layout), repetitions)
            model = least_milliseconds(model_arms(config, layout), repetitions)
            name = f"{shape.rows} x {shape.seq_len} x {shape.n_embd}, {shape.n_layer}, {shape.dropout}"
            cells = [
                ", ".join(f"{value:.0f}" for value in attention.values()),
                f"{attention['documents'] / attention['stream']:.2f}",
                ", ".join(f"{value:.0f}" for value in model.values()),
                f"{model['documents'] / model['stream']:.2f}",
            ]
            print(f"| {name} | {least} to {most} | {' | '.join(cells)} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
