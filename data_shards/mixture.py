"""Which source each position draws from, so that every source has its share at every position."""

import heapq
from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

import numpy as np

from data_shards.permutation import Int64Array

MAX_PERIOD = 65_536


def integer_shares(weights: Sequence[float]) -> list[int]:
    """Integers in the proportion of the weights, with a sum (the period) of at most MAX_PERIOD.

    Weights are read as the decimals that they are written as: [0.7, 0.3] gives [7, 3], exactly. Where the exact
    period would be longer, shares are rounded (largest remainder) to a sum of MAX_PERIOD: a share is then less than
    1 / MAX_PERIOD of the whole from its weight, but that no share falls below one.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    denominator = lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * denominator) for weight in exact]
    whole = [share // gcd(*whole) for share in whole]
    return whole if sum(whole) <= MAX_PERIOD else _rounded_shares(whole)


def _rounded_shares(whole: Sequence[int]) -> list[int]:
    total = sum(whole)
    shares = [max(1, share * MAX_PERIOD // total) for share in whole]
    missing = MAX_PERIOD - sum(shares)
    by_remainder = sorted(range(len(whole)), key=lambda k: (-(whole[k] * MAX_PERIOD % total), k))
    for k in by_remainder[: max(0, missing)]:
        shares[k] += 1
    shares[shares.index(max(shares))] += min(0, missing)
    return shares


def share_sequence(shares: Sequence[int]) -> Int64Array:
    """The source of each position of one period, int64 [sum of shares].

    With K > 1 sources and D = sum(shares), every source k is at every position p within 1 - 1/(2K - 2) of
    p * shares[k] / D (Tijdeman, "The chairman assignment problem", 1980): each occurrence has a first and a last
    position that keep the bound, and the earliest last one goes first. Exact integer arithmetic.
    """
    period, scale = sum(shares), max(2, 2 * len(shares) - 2)
    taken = [0] * len(shares)
    ready: list[tuple[int, int]] = []
    waiting = [(-(-period // (scale * share)), k) for k, share in enumerate(shares)]
    heapq.heapify(waiting)
    sequence = np.empty(period, dtype=np.int64)
    for position in range(1, period + 1):
        while waiting and waiting[0][0] <= position:
            _, k = heapq.heappop(waiting)
            heapq.heappush(ready, (period * (scale - 1 + scale * taken[k]) // (scale * shares[k]) + 1, k))
        _, k = heapq.heappop(ready)
        sequence[position - 1] = k
        taken[k] += 1
        heapq.heappush(waiting, (-(-period * (1 + scale * taken[k]) // (scale * shares[k])), k))
    return sequence


class Mixture:
    """Sends a position to (source, index within the source); periodic, so any position is found at once."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.shares = integer_shares(weights)
        self.period = sum(self.shares)
        self._source = share_sequence(self.shares)
        self._before = np.empty(self.period, dtype=np.int64)
        for k, share in enumerate(self.shares):
            self._before[self._source == k] = np.arange(share)

    def locate(self, positions: Int64Array) -> tuple[Int64Array, Int64Array]:
        """The source of each position and how many earlier positions had the same source; int64, same shape."""
        periods, within = np.divmod(positions, self.period)
        source = self._source[within]
        return source, periods * np.asarray(self.shares, dtype=np.int64)[source] + self._before[within]

    def taken(self, position: int) -> list[int]:
        """How many of the first `position` positions each source has."""
        periods, within = divmod(position, self.period)
        inside = np.bincount(self._source[:within], minlength=len(self.shares))
        return [periods * share + int(extra) for share, extra in zip(self.shares, inside, strict=True)]
