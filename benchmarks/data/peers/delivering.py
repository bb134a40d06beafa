"""The measurement that all reading arms share: one epoch of batches, delivered and dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from measured import SequenceDigest, Stretch, answer


def batched(rows: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Rows of any integer type to batches int64 [size, length], each row converted as it comes."""
    batch: np.ndarray | None = None
    filled = 0
    for row in rows:
        if batch is None:
            batch = np.empty((size, len(row)), np.int64)
        batch[filled] = row
        filled += 1
        if filled == size:
            yield batch
            batch, filled = None, 0
    if batch is not None:
        yield batch[:filled]


def deliver(batches: Iterator[np.ndarray], packages: Iterable[str], asked: dict[str, Any]) -> None:
    """Take all batches and print the answer: tokens are the inputs of the sequences, the last label apart."""
    digest = SequenceDigest(asked["length"]) if asked["verify"] else None
    rows = 0
    shape: tuple[int, ...] = ()
    with Stretch() as stretch:
        for batch in batches:
            rows += len(batch)
            shape = shape or batch.shape
            if digest is not None:
                digest.add(batch)
    if batch.dtype != np.int64 or shape != (asked["rows"], asked["length"]):
        raise ValueError(f"batches are {batch.dtype} {shape}, not int64 [{asked['rows']}, {asked['length']}]")
    tokens = rows * (asked["length"] - 1)
    answer(stretch, packages, tokens=tokens, digest=None if digest is None else digest.name())
