"""A promise of a benchmark, and whether it was kept. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.stats import Estimate


@dataclass(frozen=True)
class Target:
    """One promise; `at_least` says on which side of `wanted` it is kept."""

    what: str
    wanted: float
    at_least: bool
    found: Estimate

    @property
    def is_met(self) -> bool:
        """By the median."""
        return self._keeps(self.found.median)

    @property
    def verdict(self) -> str:
        """Whether it was reached: with the whole interval, by the median alone, or not."""
        worse = self.found.low if self.at_least else self.found.high
        if self._keeps(worse) and self.is_met:
            return "met"
        return "met by the median only" if self.is_met else "**not met**"

    def _keeps(self, value: float) -> bool:
        return value >= self.wanted if self.at_least else value <= self.wanted


@dataclass(frozen=True)
class Unmeasured:
    """A promise of which nothing is known, because what it needs failed or was not run."""

    what: str
    wanted: float
    at_least: bool
    reason: str

    @property
    def verdict(self) -> str:
        """Why nothing is known."""
        return f"**not measured: {self.reason}**"


Promise = Target | Unmeasured
