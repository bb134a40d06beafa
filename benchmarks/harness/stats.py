"""Medians of repetitions, and how sure they are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A median and its bootstrap interval of 95% (percentile method; Efron and Tibshirani 1993, chapter 13)."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 0) -> str:
        """`median (low to high)`."""
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def estimate(values: Sequence[float], seed: int = 0) -> Estimate:
    """The median of the values. With five values the interval reaches nearly from the least to the most."""
    resampled = _resampled_medians(values, np.random.default_rng(seed))
    return _estimate(float(np.median(values)), resampled)


def ratio(numerator: Sequence[float], denominator: Sequence[float], seed: int = 0) -> Estimate:
    """The ratio of two medians, each resampled by itself."""
    generator = np.random.default_rng(seed)
    above, below = _resampled_medians(numerator, generator), _resampled_medians(denominator, generator)
    return _estimate(float(np.median(numerator) / np.median(denominator)), above / below)


def _resampled_medians(values: Sequence[float], generator: np.random.Generator) -> np.ndarray:
    if not len(values):
        raise ValueError("no values: at least one repetition is needed")
    drawn = generator.integers(0, len(values), (RESAMPLES, len(values)))
    return np.asarray(np.median(np.asarray(values, dtype=float)[drawn], axis=1))


def _estimate(median: float, resampled: np.ndarray) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(median, float(low), float(high))


def turns(arms: int, repetitions: int) -> list[int]:
    """Which arm runs when: 0 1 2, 2 1 0, 0 1 2, ..., so that a slow drift of the machine falls on all arms alike."""
    forward = list(range(arms))
    return [arm for repetition in range(repetitions) for arm in (forward[::-1] if repetition % 2 else forward)]
