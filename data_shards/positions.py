"""From a place in a run to the sequences of the next step, located in long stretches."""

from bisect import bisect_right
from typing import NamedTuple

import numpy as np

from data_shards.order import Order, sequence_ids
from data_shards.permutation import Int64Array, UInt64Array

Spans = tuple[tuple[int, int], ...]
"""Half-open ranges of positions, sorted and disjoint."""

# To locate one position takes as long as to locate a hundred, and above some thousands time goes with their number.
_LONGEST_STRETCH = 8192


def next_free(start: int, count: int, excluded: Spans) -> Int64Array:
    """The first `count` positions from `start` on that no span of `excluded` has; int64 [count], rising."""
    runs = []
    for low, high in excluded[bisect_right(excluded, start, key=lambda span: span[1]) :]:
        length = min(count, max(0, low - start))
        runs.append(np.arange(start, start + length))
        count -= length
        if count == 0:
            break
        start = high
    runs.append(np.arange(start, start + count))
    return np.concatenate(runs)


class Located(NamedTuple):
    """Positions of a run, rising, and the sequences that the order has there."""

    positions: Int64Array  # [n]
    shards: Int64Array  # [n]
    firsts: Int64Array  # [n], first token in the shard
    ids: UInt64Array  # [n, 2], for `sequence_hash`


class Stretches:
    """Answers what an Order answers, position for position, but asks it some thousand positions at a time."""

    def __init__(self, order: Order, keys: UInt64Array) -> None:
        """`keys` uint64 [shards] name the shards by content."""
        self._order, self._keys = order, keys
        self._start = self._next_start = self._next = 0
        self._excluded: Spans = ()
        self._stretch = self._locate(np.empty(0, dtype=np.int64))

    def next(self, start: int, count: int, excluded: Spans) -> Located:
        """The first `count` positions from `start` on that are not excluded."""
        begin = self._begin(start, excluded)
        length = len(self._stretch.positions)
        if begin is None or begin + count > length:
            # Each longer than the one before, so that who wants a single step does not wait for thousands; and no
            # longer than an epoch, since each epoch costs.
            length = max(count, min(_LONGEST_STRETCH, 4 * length, self._order.sequences_per_epoch))
            begin, self._start, self._excluded = 0, start, excluded
            self._stretch = self._locate(next_free(start, length, excluded))
        end = begin + count
        positions, shards, firsts, ids = self._stretch
        self._next_start, self._next = int(positions[end - 1]) + 1, end
        return Located(positions[begin:end], shards[begin:end], firsts[begin:end], ids[begin:end])

    def _begin(self, start: int, excluded: Spans) -> int | None:
        """Index in the stretch of the first position from `start` on; None if the stretch was made for others."""
        if start < self._start or excluded != self._excluded:
            return None
        return self._next if start == self._next_start else int(self._stretch.positions.searchsorted(start))

    def _locate(self, positions: Int64Array) -> Located:
        shards, firsts = self._order.locate(positions)
        return Located(positions, shards, firsts, sequence_ids(shards, firsts, self._keys))
