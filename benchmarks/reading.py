"""How fast shuffled batches are read: Headrace's loader against a raw memory map.

`python -m benchmarks.reading` prints a table; both arms read the same dataset, on one core, from the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_shards.dataset import Dataset, commit
from data_shards.loader import LoaderState, TrainLoader, train_order
from tests.data_shards.loader_dataset import write_shard

SEQ_LEN, ROWS = 1024, 16


def make_dataset(folder: Path, shards: int, tokens: int) -> Dataset:
    """Random tokens in shards as `headrace prepare` lays them out."""
    generator = np.random.default_rng(0)
    made = [
        write_shard(folder, "train", "a", n, generator.integers(0, 50_000, tokens), 65_536, "uint16")
        for n in range(shards)
    ]
    dataset = Dataset(folder, "bench", "t", "c", 50_000, 0, "uint16", tuple(made))
    commit(dataset)
    return dataset


def headrace_arm(dataset: Dataset, batches: int) -> int:
    """Shuffled batches int64 [16, 1025] through the loader, hash checks included."""
    order = train_order(dataset, seq_len=SEQ_LEN, seed=1, streams=192, window=8, weights=None)
    loader = TrainLoader(dataset, order, seq_len=SEQ_LEN, rank=0, world=1, micro_batch=ROWS)
    state, seen = LoaderState(), 0
    for _ in range(batches):
        batch = loader.read(state, ROWS)
        state, seen = batch.state_after, seen + batch.tokens_real
    return seen


def memmap_arm(dataset: Dataset, batches: int) -> int:
    """The limit: one flat map, random offsets, no checks."""
    maps = [np.memmap(dataset.dir / shard.path, np.uint16, "r") for shard in dataset.shards]
    generator, seen = np.random.default_rng(1), 0
    for _ in range(batches):
        out = np.empty((ROWS, SEQ_LEN + 1), np.int64)
        for row in out:
            chosen = maps[generator.integers(len(maps))]
            start = generator.integers(len(chosen) - SEQ_LEN - 1)
            row[:] = chosen[start : start + SEQ_LEN + 1]
        seen += ROWS * SEQ_LEN
    return seen


ARMS: dict[str, Callable[[Dataset, int], int]] = {
    "raw memory map": memmap_arm,
    "headrace": headrace_arm,
}


def measure(dataset: Dataset, batches: int, repetitions: int) -> dict[str, list[float]]:
    """Tokens per CPU second of each arm, the arms in turn."""
    rates: dict[str, list[float]] = {name: [] for name in ARMS}
    for repetition in range(repetitions + 1):  # the first fills the page cache and is not counted
        for name, arm in ARMS.items():
            began = time.process_time()
            seen = arm(dataset, batches)
            if repetition:
                rates[name].append(seen / (time.process_time() - began))
    return rates


def table(rates: dict[str, list[float]]) -> str:
    """Markdown rows: median, least and most, in millions of tokens per CPU second."""
    lines = ["| arm | million tokens/s and core | least to most |", "|---|---|---|"]
    for name, values in rates.items():
        millions = [value / 1e6 for value in values]
        lines.append(f"| {name} | {statistics.median(millions):.0f} | {min(millions):.0f} to {max(millions):.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="per shard")
    parser.add_argument("--batches", type=int, default=900)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), options.shards, options.tokens)
        print(table(measure(dataset, options.batches, options.repetitions)))  # noqa: T201


if __name__ == "__main__":
    main()
