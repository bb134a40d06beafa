"""How far an order of sequences is from a random permutation of them, in a few figures."""

from dataclasses import dataclass

import numpy as np

from data_shards.order import Order
from data_shards.permutation import Int64Array


@dataclass(frozen=True)
class ShuffleQuality:
    """Figures of one epoch; in brackets what a random permutation has. An origin is a sequence's place in the corpus.

    neighbour_distance: mean distance between the origins of neighbours in the order, as a share of the corpus [1/3].
    neighbour_correlation: of the origins of neighbours [0]; near 1 where the corpus is read on in its own order.
    progress_correlation: of origin and position [0]; near 1 where an epoch walks from the corpus's start to its end,
        however well it shuffles on the way.
    batch_drift: standard deviation of the batches' mean origin, as a multiple of that of batches drawn at random [1];
        above 1 batches differ more from each other than chance has it, below 1 each is a fairer sample than chance.
    same_shard: how often two sequences of a batch come from one shard, as a multiple of how often by chance [1].
    """

    neighbour_distance: float
    neighbour_correlation: float
    progress_correlation: float
    batch_drift: float
    same_shard: float


def shuffle_quality(origins: Int64Array, shards: Int64Array, batch_size: int) -> ShuffleQuality:
    """The figures of an order, whoever made it.

    Args: origins int64 [n], place in the corpus of the sequence at each position, in any unit, each once; shards
    int64 [n], its shard (or what else lies together); batch_size in sequences. What follows the last whole batch
    counts for neighbours only.
    Raises: ValueError if there are fewer than two batches of two.
    """
    n, batches = len(origins), len(origins) // batch_size
    if batch_size < 2 or batches < 2:
        raise ValueError(f"{n} sequences in batches of {batch_size}: two batches of two or more are needed")
    rank = np.empty(n)
    rank[np.argsort(origins, kind="stable")] = np.arange(n)
    in_batches = (batches, batch_size)
    means = rank[: batches * batch_size].reshape(in_batches).mean(axis=1)
    by_chance = np.sqrt((n * n - 1) / 12 / batch_size * (n - batch_size) / (n - 1))  # drawn without putting back
    return ShuffleQuality(
        neighbour_distance=float(np.abs(np.diff(rank)).mean() / n),
        neighbour_correlation=_correlation(rank[:-1], rank[1:]),
        progress_correlation=_correlation(np.arange(n), rank),
        batch_drift=float(means.std(mean=(n - 1) / 2) / by_chance),
        same_shard=_same_shard(shards[: batches * batch_size].reshape(in_batches)),
    )


def origins_of_order(order: Order, shard_tokens: Int64Array, epoch: int = 0) -> tuple[Int64Array, Int64Array]:
    """Origin in tokens and shard of the sequence at each position of an epoch of an order without weights.

    Args: shard_tokens int64 [shards], as the order was made with. Returns: two int64 [sequences].
    """
    start = epoch * order.sequences_per_epoch
    shards, firsts = order.locate(np.arange(start, start + order.sequences_per_epoch))
    return (np.cumsum(shard_tokens) - shard_tokens)[shards] + firsts, shards


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _same_shard(shards: Int64Array) -> float:
    """Pairs of one shard within batches (int64 [batches, batch size]) over those expected by chance."""
    batches, size = shards.shape
    _, count = np.unique(shards, return_counts=True)
    n = shards.size
    by_chance = (count * (count - 1)).sum() / (n * (n - 1)) * batches * size * (size - 1)
    in_order = np.sort(shards, axis=1)
    equal = in_order[:, 1:] == in_order[:, :-1]
    # A run of k equal shards, sorted, has k (k - 1) ordered pairs: 2 (1 + 2 + ... + (k - 1)), a place in the run each.
    place = np.zeros(batches, dtype=np.int64)
    pairs = 0
    for column in equal.T:
        place = (place + 1) * column
        pairs += 2 * int(place.sum())
    return float(pairs / by_chance) if by_chance else 1.0
