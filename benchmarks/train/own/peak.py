"""The peak of fp32 matrix products on this core: the best of the model's own shapes and of squares.

Options: rows (tokens of a step), n_embd, vocab_size, repeats.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from torch import Tensor

SQUARES = (1024, 2048)


def shapes(rows: int, n_embd: int, vocab_size: int) -> list[tuple[int, int, int]]:
    """(rows, in, out) of the products that a step is made of, and squares."""
    widths = ((n_embd, 3 * n_embd), (n_embd, n_embd), (n_embd, 4 * n_embd), (4 * n_embd, n_embd), (n_embd, vocab_size))
    return [(rows, *pair) for pair in widths] + [(size, size, size) for size in SQUARES]


def best_seconds(a_mk: Tensor, w_nk: Tensor, repeats: int) -> float:
    """The fastest of so many products by either library that torch has; the first, which makes kernels, does not count.

    MKL's is what torch takes by itself; oneDNN's is faster on some processors.
    """
    out_mn = torch.empty(len(a_mk), len(w_nk))
    products = (
        lambda: torch.mm(a_mk, w_nk.t(), out=out_mn),
        lambda: torch.ops.mkldnn._linear_pointwise(a_mk, w_nk, None, "none", [], None),
    )
    best = float("inf")
    for product in products:
        product()
        for _ in range(repeats):
            began = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - began)
    return best


def main() -> None:
    """Print FLOPs per second by shape."""
    torch.set_num_threads(1)
    asked = json.loads(sys.argv[-1])
    generator = torch.Generator().manual_seed(0)
    found = {}
    for m, k, n in shapes(asked["rows"], asked["n_embd"], asked["vocab_size"]):
        a_mk, w_nk = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)
        found[f"{m} x {k} x {n}"] = 2 * m * k * n / best_seconds(a_mk, w_nk, asked["repeats"])
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
