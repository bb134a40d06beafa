"""The layout of shards on streams: longest first, then split at sequence borders until level to one sequence."""

import heapq
from dataclasses import dataclass

import numpy as np

from data_shards.permutation import Int64Array, mix64


@dataclass(frozen=True)
class StreamLayout:
    """Segments of shards on streams, sorted by stream; the four arrays are int64 [segments].

    Segment i is the sequences [first[i], first[i] + count[i]) of shard[i] and lies on stream[i].
    """

    streams: int
    shard: Int64Array
    first: Int64Array
    count: Int64Array
    stream: Int64Array

    def lengths(self) -> Int64Array:
        """Sequences on each stream, int64 [streams]: the first (total mod streams) have one more than the others."""
        return _sum_by(self.stream, self.count, self.streams)


def level_lengths(total: int, streams: int) -> Int64Array:
    """How many of `total` sequences each stream gets, int64 [streams]."""
    return total // streams + (np.arange(streams) < total % streams).astype(np.int64)


def lay_streams(counts: Int64Array, streams: int) -> StreamLayout:
    """Lay shards of `counts` sequences (int64 [shards]) on streams whose lengths are `level_lengths` exactly.

    Longest shard first onto the least loaded stream (Graham 1969), then fewer than `streams` cuts. A stream was at
    or below the mean before its last shard came, so what is above its length is always a part of that shard.
    """
    by_length = np.argsort(-counts, kind="stable")
    shard = by_length[: np.count_nonzero(counts)]
    count = counts[shard].astype(np.int64)
    stream = _longest_first(count, streams)
    excess = _sum_by(stream, count, streams) - level_lengths(int(count.sum()), streams)
    last = np.zeros(streams, dtype=np.int64)
    np.maximum.at(last, stream, np.arange(len(stream)))
    donors, takers = np.flatnonzero(excess > 0), np.flatnonzero(excess < 0)
    # Scattered, so that the pieces of one shard do not all lie on neighbouring streams, or on the longer ones.
    takers = takers[np.argsort(mix64(takers.astype(np.uint64)), kind="stable")]
    donor, taker, offset, amount = _transfers(excess[donors], -excess[takers])
    count[last[donors]] -= excess[donors]
    source = last[donors][donor]
    return _sorted_layout(
        streams,
        np.concatenate([shard, shard[source]]),
        np.concatenate([np.zeros_like(shard), count[source] + offset]),
        np.concatenate([count, amount]),
        np.concatenate([stream, takers[taker]]),
    )


def _longest_first(descending_counts: Int64Array, streams: int) -> Int64Array:
    """The stream of each shard, int64 [shards]; streams are numbered by falling load."""
    heap = [(0, stream) for stream in range(streams)]
    chosen = []
    for count in descending_counts.tolist():
        load, stream = heap[0]
        chosen.append(stream)
        heapq.heapreplace(heap, (load + count, stream))
    number = np.empty(streams, dtype=np.int64)
    number[[stream for _, stream in sorted(heap, key=lambda entry: (-entry[0], entry[1]))]] = np.arange(streams)
    return number[np.array(chosen, dtype=np.int64)]


def _transfers(given: Int64Array, taken: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
    """Match amounts of equal sum in order: donor, taker, offset in the donor's amount, amount; each int64 [pieces]."""
    given_ends, taken_ends = np.cumsum(given), np.cumsum(taken)
    ends = np.union1d(given_ends, taken_ends)
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends])[:-1]
    donor = np.searchsorted(given_ends, starts, side="right")
    taker = np.searchsorted(taken_ends, starts, side="right")
    return donor, taker, starts - (given_ends - given)[donor], ends - starts


def _sorted_layout(
    streams: int, shard: Int64Array, first: Int64Array, count: Int64Array, stream: Int64Array
) -> StreamLayout:
    order = np.lexsort((first, shard, stream))
    order = order[count[order] > 0]
    return StreamLayout(streams, shard[order], first[order], count[order], stream[order])


def _sum_by(group: Int64Array, values: Int64Array, groups: int) -> Int64Array:
    sums = np.zeros(groups, dtype=np.int64)
    np.add.at(sums, group, values)
    return sums
