"""Tokens of the fullest rank over the mean one, for three ways of dealing shards of unequal size to ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_shards.balance import balance, max_over_mean
from data_shards.order import Order

SIGMAS, WORLDS = (0.5, 1.0), (8, 64)
SHARDS, MEDIAN_TOKENS, SEQ_LEN, STREAMS = 512, 2_000_000, 1024, 192


def measure_balance(seeds: int) -> list[dict[str, Any]]:
    """For each spread and world the least and the most over the seeds, one rank lost half-way included."""
    return [_row(sigma, world, seeds) for sigma in SIGMAS for world in WORLDS]


def _row(sigma: float, world: int, seeds: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {
        "headrace": [],
        "headrace, a rank lost": [],
        "round robin": [],
        "longest first": [],
    }
    for seed in range(seeds):
        tokens = log_normal_tokens(sigma, seed)
        order = Order(
            tokens,
            ["a"] * len(tokens),
            seq_len=SEQ_LEN,
            seed=seed,
            streams=STREAMS,
            window=8,
            weights=None,
            fingerprint=f"balance {seed}",
        )
        measured = balance(order, tokens, world, lost=1)
        assert measured.loss is not None
        found["headrace"].append(max_over_mean(measured.load.tokens))
        found["headrace, a rank lost"].append(max_over_mean(measured.loss.load.tokens))
        found["round robin"].append(measured.round_robin)
        found["longest first"].append(measured.longest_first)
    spans = {name: [min(values), max(values)] for name, values in found.items()}
    return {"sigma": sigma, "world": world, "shards": SHARDS, "seeds": seeds, "max_over_mean": spans}


def log_normal_tokens(sigma: float, seed: int) -> np.ndarray:
    """Shard sizes in tokens, int64 [SHARDS]."""
    return np.random.default_rng(seed).lognormal(np.log(MEDIAN_TOKENS), sigma, SHARDS).astype(np.int64)
