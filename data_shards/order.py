"""The order of training sequences: a pure function of fingerprint, seed, sequence length, mixture and position."""

import hashlib
from collections.abc import Mapping, Sequence
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike

from data_shards.errors import DataError
from data_shards.mixture import Mixture
from data_shards.permutation import Int64Array, UInt64Array, root_key
from data_shards.pool import Pool


class Order:
    """Maps positions 0, 1, 2, ... of a run to (shard, first token), whatever ranks, nodes and threads there are.

    Without weights all shards are one pool, and position p is the pool's index p. With weights each source is a pool,
    and a Mixture deals the positions to the pools, each within one sequence of its share at every position.
    Memory grows with the number of shards, not of sequences.
    """

    def __init__(
        self,
        shard_tokens: ArrayLike,
        shard_sources: Sequence[str],
        *,
        seq_len: int,
        seed: int,
        streams: int,
        window: int,
        weights: Mapping[str, float] | None,
        fingerprint: str,
    ) -> None:
        """Lay out the shards of a dataset.

        Args: shard_tokens int [shards] and shard_sources [shards] in manifest order; seq_len in tokens; window in
        segments of shards; weights by source, in any scale; fingerprint of the dataset.
        Raises: DataError if there is no whole sequence, or weights and sources do not match.
        """
        self.seq_len, self.streams, self.weights = seq_len, streams, weights
        self.sources = tuple(sorted(set(shard_sources)))
        tokens = np.asarray(shard_tokens, dtype=np.int64)
        self.pools: dict[str, Pool] = {}
        for name, members in _members(shard_sources, weights).items():
            key = root_key(fingerprint, seed, name)
            pool = Pool(members, tokens[members], seq_len=seq_len, streams=streams, window=window, key=key)
            _check_not_empty(pool, name, tokens[members], seq_len)
            self.pools[name] = pool
        self._mixture = Mixture([1.0 if weights is None else weights[name] for name in self.pools])

    @property
    def sequences_per_epoch(self) -> int:
        """Sequences in all pools together; the same in every epoch."""
        return sum(pool.sequences for pool in self.pools.values())

    def locate(self, positions: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Shard number and first token of each position; int64 [n] in, two int64 [n] out."""
        if self.weights is None:
            return self.pools[""].locate(positions)
        source, index = self._mixture.locate(positions)
        shard, first = np.empty_like(positions), np.empty_like(positions)
        for k, pool in enumerate(self.pools.values()):
            here = np.flatnonzero(source == k)
            if here.size:
                shard[here], first[here] = pool.locate(index[here])
        return shard, first

    def passes(self, position: int) -> dict[str, float]:
        """How often `position` sequences go through each source; without weights it is one number for all."""
        return {name: taken / sequences for name, (taken, sequences) in self._progress(position).items()}

    def epoch_of(self, position: int) -> dict[str, int]:
        """The epoch that each source is in after `position` sequences; without weights it is one for all."""
        return {name: taken // sequences for name, (taken, sequences) in self._progress(position).items()}

    def _progress(self, position: int) -> dict[str, tuple[int, int]]:
        """Sequences taken of each source's pool, and sequences in it."""
        pools, taken = self.pools.values(), self._mixture.taken(position)
        progress = [(count, pool.sequences) for pool, count in zip(pools, taken, strict=True)]
        alike = progress * len(self.sources) if self.weights is None else progress
        return dict(zip(self.sources, alike, strict=True))


def _members(shard_sources: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, Int64Array]:
    """The shard numbers of each pool, in the order of the pools' names."""
    if weights is None:
        return {"": np.arange(len(shard_sources))}
    names, number = np.unique(np.asarray(shard_sources, dtype=str), return_inverse=True)
    _check_weights(weights, names.tolist())
    return {str(name): np.flatnonzero(number == k) for k, name in enumerate(names)}


def _check_weights(weights: Mapping[str, float], names: Sequence[str]) -> None:
    for name, weight in weights.items():
        if not (isfinite(weight) and weight > 0):
            raise DataError(f"The weight of source '{name}' is {weight}; it must be a number above 0.")
    if missing := sorted(set(names) - set(weights)):
        raise DataError(f"Source '{missing[0]}' has no weight, but others have: give all sources a weight, or none.")
    if absent := sorted(set(weights) - set(names)):
        raise DataError(f"Source '{absent[0]}' has a weight, but no training shard: give it documents or leave it out.")


def _check_not_empty(pool: Pool, name: str, tokens: Int64Array, seq_len: int) -> None:
    if pool.sequences:
        return
    where = f"Source '{name}'" if name else "The training split"
    raise DataError(
        f"{where} has no whole sequence: its largest shard holds {int(tokens.max(initial=0))} tokens and a sequence "
        f"of {seq_len} needs {seq_len + 1}; add text or lower the sequence length."
    )


def sequence_ids(shard_indices: Int64Array, first_tokens: Int64Array, keys: UInt64Array) -> UInt64Array:
    """What names sequences by content, not by number in a list: uint64 [n, 2].

    Args: shard_indices and first_tokens int64 [n] as `Order.locate` gives them; keys uint64 [shards] from content.
    """
    return np.stack([keys[shard_indices], first_tokens.astype(np.uint64)], axis=1).astype("<u8")


def sequence_hash(ids: UInt64Array) -> str:
    """16 hex digits that name a step's sequences (`sequence_ids`, uint64 [n, 2]) in their order."""
    return hashlib.blake2b(ids.data, digest_size=8).hexdigest()
