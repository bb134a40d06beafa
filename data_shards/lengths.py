"""The distribution of documents' lengths, in memory that does not grow with their number."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_shards.permutation import Int64Array

# Lengths below 2 ** EXACT_BITS are counted one by one, longer ones by their EXACT_BITS leading bits, as in an HDR
# histogram: within 0.05 % of themselves.
EXACT_BITS = 11
_EXACT = 1 << EXACT_BITS
_HALF = _EXACT >> 1
_LENGTH_BITS = 53  # a float64 holds such integers exactly
_CELLS = _EXACT + (_LENGTH_BITS - EXACT_BITS) * _HALF
QUANTILES = {"p1": 0.01, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99}


class LengthHistogram:
    """Counts lengths of 0 and more, in 360 KB."""

    def __init__(self) -> None:
        self._counts = np.zeros(_CELLS, dtype=np.int64)
        self._min, self._max, self._sum = np.iinfo(np.int64).max, 0, 0

    @property
    def total(self) -> int:
        """How many lengths were counted."""
        return int(self._counts.sum())

    def add(self, lengths: ArrayLike) -> None:
        """Count lengths, integers [n], each 0 <= length < 2 ** 53."""
        values = np.asarray(lengths, dtype=np.int64)
        if not len(values):
            return
        cells = _cell(values)
        self._counts[: int(cells.max()) + 1] += np.bincount(cells)
        self._min, self._max = min(self._min, int(values.min())), max(self._max, int(values.max()))
        self._sum += int(values.sum())

    def merge(self, other: "LengthHistogram") -> None:
        """Count what another has counted."""
        self._counts += other._counts
        self._min, self._max = min(self._min, other._min), max(self._max, other._max)
        self._sum += other._sum

    def quantile(self, share: float) -> float:
        """The length below which `share` of the lengths lie, 0 <= share <= 1, between neighbours on the line through
        them (as numpy's default); of lengths that are not counted one by one, the middle of their cell stands.

        Raises: ValueError if nothing was counted.
        """
        if not self.total:
            raise ValueError("no length was counted")
        place = share * (self.total - 1)
        ends = np.cumsum(self._counts)
        cells = np.searchsorted(ends, [math.floor(place), math.ceil(place)], side="right")
        low, high = _middles(cells).tolist()
        return float(np.clip(low + (high - low) * (place - math.floor(place)), self._min, self._max))

    def summary(self) -> dict[str, float] | None:
        """Least, mean, greatest and QUANTILES by name; None of nothing."""
        if not self.total:
            return None
        quantiles = {name: self.quantile(share) for name, share in QUANTILES.items()}
        return {"min": self._min, **quantiles, "mean": self._sum / self.total, "max": self._max}

    def log_bins(self, per_doubling: int = 2) -> list[dict[str, Any]]:
        """Bins [low, high) of equal width on a logarithmic scale, from the first to the last that holds a length.

        Each has `low`, `high` and `count`; lengths of 0 are in the first bin, which starts at 1 otherwise.
        """
        edges = np.unique(
            np.round(2.0 ** (np.arange((_LENGTH_BITS + 1) * per_doubling + 1) / per_doubling)).astype(np.int64)
        )
        filled = np.flatnonzero(self._counts)
        places = np.searchsorted(edges, _middles(filled), side="right") - 1
        counts = np.bincount(np.maximum(places, 0), self._counts[filled], minlength=len(edges)).astype(np.int64)
        held = np.flatnonzero(counts)
        if not len(held):
            return []
        chosen = range(int(held[0]), int(held[-1]) + 1)
        return [{"low": int(edges[i]), "high": int(edges[i + 1]), "count": int(counts[i])} for i in chosen]


def _cell(lengths: Int64Array) -> Int64Array:
    """The cell of each length; int64 [n]."""
    bits = np.frexp(lengths.astype(np.float64))[1].astype(np.int64)
    shift = np.maximum(bits - EXACT_BITS, 0)
    return np.where(shift == 0, lengths, _EXACT + (shift - 1) * _HALF + (lengths >> shift) - _HALF)


def _middles(cells: NDArray[np.int64]) -> NDArray[np.float64]:
    shift, place = np.divmod(np.maximum(cells - _EXACT, 0), _HALF)
    wide = (place + _HALF + 0.5) * 2.0 ** (shift + 1)
    return np.where(cells < _EXACT, cells.astype(np.float64), wide)
