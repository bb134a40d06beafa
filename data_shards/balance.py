"""How the training sequences of an epoch fall to the ranks of a world, and what moves when ranks are lost."""

import heapq
from dataclasses import dataclass
from math import gcd, lcm

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_shards.errors import DataError
from data_shards.order import Order
from data_shards.permutation import Int64Array
from data_shards.pool import sequence_counts

# Up to so many sequences are looked up one by one (two seconds, 100 MB); a longer epoch goes by its layout.
LOOKED_UP = 1 << 22
_CHUNK = 1 << 20


@dataclass(frozen=True)
class RankLoad:
    """What each rank does. Where `is_exact` is False, `shards` says how many shards a rank opens at most."""

    tokens: Int64Array  # [world], inputs trained on
    shards: Int64Array  # [world], different shards opened
    is_exact: bool


@dataclass(frozen=True)
class Loss:
    """What follows when the last ranks are gone half-way through an epoch.

    Rank r of those that are left takes the positions p with p mod (ranks left) = r, from `position` on.
    """

    ranks: int  # lost
    position: int  # the first one after the loss
    load: RankLoad  # of the ranks left, over the rest of the epoch
    moved_share: float  # of the rest's sequences: read by another rank than without the loss
    least_moved_share: float  # what the lost ranks would have read: no way of dealing moves less
    extra_shards: int  # shards to open by ranks that would not have opened them in this epoch, summed over ranks
    extra_is_exact: bool  # else it goes by layouts that say which shards are opened at most


@dataclass(frozen=True)
class Balance:
    """One epoch over a world, beside two common ways of giving whole shards to ranks."""

    world: int
    sequences: int  # of the epoch
    load: RankLoad
    round_robin: float  # greatest over mean, in whole sequences, where shard i goes to rank i mod world
    longest_first: float  # where each shard, the longest first, goes to the rank that has least
    loss: Loss | None


def balance(order: Order, shard_tokens: ArrayLike, world: int, lost: int = 0) -> Balance:
    """The balance of the first epoch of `order` over `world` ranks and, with `lost` > 0, over what is then left.

    With weights, an epoch is as many positions as there are sequences in all sources. `shard_tokens` int [shards] are
    those that the order was made of. Raises DataError unless world >= 1 and 0 <= lost < world.
    """
    _check(world, lost)
    sequences = order.sequences_per_epoch
    counts = sequence_counts(np.asarray(shard_tokens, dtype=np.int64), order.seq_len)
    return Balance(
        world=world,
        sequences=sequences,
        load=_load(order, world, _opened(order, world, 0, sequences), 0, sequences),
        round_robin=max_over_mean(_round_robin(counts, world)),
        longest_first=max_over_mean(_longest_first(counts, world)),
        loss=_loss(order, world, lost) if lost else None,
    )


def max_over_mean(loads: NDArray[np.int64]) -> float:
    """The greatest load over the mean one: how many times longer than need be all wait for the slowest."""
    return float(loads.max() / loads.mean())


def _check(world: int, lost: int) -> None:
    if world < 1:
        raise DataError(f"--world: must be at least 1, found {world}: give the number of ranks")
    if not 0 <= lost < world:
        raise DataError(f"--lose: must be below the number of ranks, {world}, and not negative, found {lost}")


@dataclass(frozen=True)
class _Opened:
    """Which shards are opened by the ranks r with the same r mod `classes`: rows [class, shard], sorted, no doubles."""

    classes: int
    class_of_pair: Int64Array  # [pairs]
    shard_of_pair: Int64Array  # [pairs]
    is_exact: bool

    def numbers(self, world: int) -> Int64Array:
        """Shards opened by each rank, int64 [world]."""
        per_class = np.bincount(self.class_of_pair, minlength=self.classes)
        return per_class[np.arange(world) % self.classes].astype(np.int64)

    def shards(self, rank: int) -> Int64Array:
        """The shards that a rank opens, rising."""
        low, high = np.searchsorted(self.class_of_pair, [rank % self.classes, rank % self.classes + 1])
        return self.shard_of_pair[low:high]


def _opened(order: Order, world: int, start: int, stop: int) -> _Opened:
    """The shards that ranks open for the positions [start, stop) of the first epoch.

    Without weights position p is in slot p mod streams: a rank whose world divides the streams reads whole slots, and
    all of each in a whole epoch. Other cases are looked up, or, where that is too much, the slots that a rank reads
    from are taken as read whole by it.
    """
    whole_epoch = (start, stop) == (0, order.sequences_per_epoch)
    reads_slots = order.weights is None and order.streams % world == 0 and whole_epoch
    if stop - start <= LOOKED_UP and not reads_slots:
        return _looked_up(order, world, start, stop)
    return _by_layout(order, world, is_exact=reads_slots)


def _looked_up(order: Order, world: int, start: int, stop: int) -> _Opened:
    shards = 1 + max(int(pool.dealt(0)[1].max()) for pool in order.pools.values())
    pairs = np.empty(0, dtype=np.int64)
    for first in range(start, stop, _CHUNK):
        positions = np.arange(first, min(stop, first + _CHUNK))
        shard, _ = order.locate(positions)
        pairs = np.union1d(pairs, positions % world * shards + shard)
    rank, shard = np.divmod(pairs, shards)
    return _Opened(world, rank, shard, is_exact=True)


def _by_layout(order: Order, world: int, *, is_exact: bool) -> _Opened:
    # With weights, where a position stands in its pool has no fixed relation to its rank.
    classes = gcd(order.streams, world) if order.weights is None else 1
    dealt = [pool.dealt(0) for pool in order.pools.values()]
    slot, shard = (np.concatenate(columns) for columns in zip(*dealt, strict=True))
    shards = 1 + int(shard.max())
    class_of_pair, shard_of_pair = np.divmod(np.unique(slot % classes * shards + shard), shards)
    return _Opened(classes, class_of_pair, shard_of_pair, is_exact)


def _load(order: Order, world: int, opened: _Opened, start: int, stop: int) -> RankLoad:
    ranks = np.arange(world)
    sequences = (stop - 1 - ranks) // world - (start - 1 - ranks) // world  # p in [start, stop) with p mod world = r
    return RankLoad(sequences * order.seq_len, opened.numbers(world), opened.is_exact)


def _loss(order: Order, world: int, lost: int) -> Loss:
    left, stop = world - lost, order.sequences_per_epoch
    start = stop // 2
    before, after = _opened(order, world, 0, stop), _opened(order, left, start, stop)
    # p mod world = p mod left = r just where p mod lcm(world, left) = r (Chinese remainders), and r < left.
    stay = _residues(start, stop, lcm(world, left), left)
    return Loss(
        ranks=lost,
        position=start,
        load=_load(order, left, after, start, stop),
        moved_share=1 - stay / (stop - start),
        least_moved_share=1 - _residues(start, stop, world, left) / (stop - start),
        extra_shards=_extra_shards(before, after, left),
        extra_is_exact=before.is_exact and after.is_exact,
    )


def _residues(start: int, stop: int, modulus: int, below: int) -> int:
    """How many p of [start, stop) have p mod modulus < below."""
    before, until = ((p // modulus) * below + min(p % modulus, below) for p in (start, stop))
    return until - before


def _extra_shards(before: _Opened, after: _Opened, left: int) -> int:
    # Ranks of the same two classes open the same shards.
    classes, ranks = np.unique(
        np.stack([np.arange(left) % before.classes, np.arange(left) % after.classes]), axis=1, return_counts=True
    )
    return sum(
        number * len(np.setdiff1d(after.shards(new), before.shards(old), assume_unique=True))
        for old, new, number in zip(*classes.tolist(), ranks.tolist(), strict=True)
    )


def _round_robin(counts: Int64Array, world: int) -> Int64Array:
    return np.bincount(np.arange(len(counts)) % world, counts, minlength=world).astype(np.int64)


def _longest_first(counts: Int64Array, world: int) -> Int64Array:
    loads = [0] * world
    for count in np.sort(counts)[::-1].tolist():
        heapq.heapreplace(loads, loads[0] + count)
    return np.array(loads, dtype=np.int64)
