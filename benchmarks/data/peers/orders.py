"""The orders in which Streaming and WebDataset deliver samples, as arrays of the samples' places in the data.

Options: shards, sequences (in a shard), seed, out (a folder for NAME.npy, int64 [shards * sequences]).
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
import vision  # noqa: F401  before streaming
from measured import options
from streaming.base.shuffle import get_shuffle
from webdataset.filters import _shuffle

# What StreamingDataset takes where nothing is asked for: max(4,000,000 // canonical nodes, 262,144) samples.
LARGEST_BLOCK, SMALLEST_BLOCK = 4_000_000, 1 << 18


def streaming_order(shards: int, sequences: int, seed: int, block_samples: int) -> np.ndarray:
    """py1e on one canonical node: samples move within about `block_samples`."""
    sizes = np.full(shards, sequences, dtype=np.int64)
    return get_shuffle("py1e", sizes, 1, seed, 0, block_samples)


def webdataset_order(shards: int, sequences: int, seed: int) -> np.ndarray:
    """Shards in a random order, then a shuffle buffer of 1,000 samples."""
    order = list(range(shards))
    random.Random(seed).shuffle(order)
    samples = (shard * sequences + i for shard in order for i in range(sequences))
    return np.fromiter(_shuffle(samples, 1000, 100, rng=random.Random(seed)), dtype=np.int64)


def main() -> None:
    """Write the orders."""
    asked = options()
    size = asked["shards"], asked["sequences"], asked["seed"]
    orders = {
        "streaming": streaming_order(*size, LARGEST_BLOCK),
        "streaming-smallest-block": streaming_order(*size, SMALLEST_BLOCK),
        "webdataset": webdataset_order(*size),
    }
    for name, order in orders.items():
        np.save(Path(asked["out"]) / f"{name}.npy", order)
    sys.stdout.write(json.dumps({"orders": sorted(orders)}) + "\n")


if __name__ == "__main__":
    main()
