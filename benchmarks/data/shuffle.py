"""How far orders of training samples are from a random permutation: Headrace's windows beside other readers' orders."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.data.plan import Plan
from data_shards.order import Order
from data_shards.settings import DataSettings
from data_shards.shuffle_quality import ShuffleQuality, origins_of_order, shuffle_quality

WINDOWS = (1, 8, 64)
SEQUENCES, SEQ_LEN, SEED, BATCH = 500, 1024, 1, 256
PEERS = {
    "streaming": "Streaming py1e, blocks of 4,000,000 samples (its default on one node)",
    "streaming-smallest-block": "Streaming py1e, blocks of 262,144 samples (its default on 16 nodes and more)",
    "webdataset": "webdataset, tars in a random order, a buffer of 1,000 samples",
}


def measure_shuffle(plan: Plan) -> dict[str, Any]:
    """The figures of each order over the same samples, one epoch."""
    shards = plan.shuffle_shards
    folder = plan.made("orders")
    plan.run_peer("orders.py", {"shards": shards, "sequences": SEQUENCES, "seed": SEED, "out": str(folder)})
    rows = {f"headrace, window of {window}": headrace_quality(shards, window) for window in WINDOWS}
    rows |= {title: quality(np.load(folder / f"{name}.npy")) for name, title in PEERS.items()}
    rows["a random permutation"] = quality(np.random.default_rng(SEED).permutation(shards * SEQUENCES))
    return {
        "shards": shards,
        "sequences": SEQUENCES,
        "streams": default_settings().streams,
        "batch": BATCH,
        "rows": {name: asdict(row) for name, row in rows.items()},
    }


def quality(samples: np.ndarray) -> ShuffleQuality:
    """The figures of an order of sample numbers, int64 [samples]; a shard holds SEQUENCES of them."""
    return shuffle_quality(samples, samples // SEQUENCES, BATCH)


def headrace_quality(shards: int, window: int) -> ShuffleQuality:
    """The figures of Headrace's first epoch."""
    tokens = np.full(shards, SEQUENCES * SEQ_LEN + 1)
    order = Order(
        tokens,
        ["a"] * shards,
        seq_len=SEQ_LEN,
        seed=SEED,
        streams=default_settings().streams,
        window=window,
        weights=None,
        fingerprint="shuffle",
    )
    return shuffle_quality(*origins_of_order(order, tokens), BATCH)


def default_settings() -> DataSettings:
    """The `data:` section with nothing set that need not be."""
    return DataSettings.model_validate({"sources": ["corpus.txt"], "tokenizer": "tokenizer.json"})
