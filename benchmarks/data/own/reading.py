"""Headrace's loader: shuffled batches int64 [rows, length] in one process; each block's hash is checked on the way.

Options: folder (a dataset), length, rows, seed, streams, window, verify.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from delivering import deliver
from measured import options

from data_shards.dataset import Dataset
from data_shards.loader import LoaderState, TrainLoader, train_order


def batches(asked: dict[str, Any]) -> Iterator[np.ndarray]:
    """One epoch."""
    dataset = Dataset.open(Path(asked["folder"]))
    seq_len, rows = asked["length"] - 1, asked["rows"]
    order = train_order(
        dataset, seq_len=seq_len, seed=asked["seed"], streams=asked["streams"], window=asked["window"], weights=None
    )

    def new_loader() -> TrainLoader:
        return TrainLoader(dataset, order, seq_len=seq_len, rank=0, world=1, micro_batch=rows)

    new_loader().read(LoaderState(), rows)  # for what is imported when it is first needed
    return _epoch(new_loader(), order.sequences_per_epoch, rows)


def _epoch(loader: TrainLoader, sequences: int, rows: int) -> Iterator[np.ndarray]:
    state = LoaderState()
    while state.consumed < sequences:
        batch = loader.read(state, min(rows, sequences - state.consumed))
        state = batch.state_after
        yield batch.tokens


def main() -> None:
    """Measure one epoch; opening the dataset and laying out the order are not counted."""
    asked = options()
    deliver(batches(asked), (), asked)


if __name__ == "__main__":
    main()
