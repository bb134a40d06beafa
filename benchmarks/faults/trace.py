"""A trace of failures from a seed, the same for every arm. Pure.

Kills come as a Poisson process; among them fall one hang (SIGSTOP), one checkpoint that is cut and one shard that is
cut. A cut checkpoint shows only when somebody loads it, so a kill comes with it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

KILL, HANG, CUT_CHECKPOINT, CUT_SHARD = "kill", "hang", "cut_checkpoint", "cut_shard"
RARE = (HANG, CUT_CHECKPOINT, CUT_SHARD)


@dataclass(frozen=True, order=True)
class Failure:
    """One failure. at: seconds from the begin of the trace; rank: whom it hits, and for a shard which one, modulo."""

    at: float
    kind: str
    rank: int


def failure_trace(seed: int, seconds: float, mean_seconds: float, world: int) -> list[Failure]:
    """Kills with exponential gaps, and each of the rare ones once, in the middle eight tenths."""
    generator = random.Random(seed)
    failures, at = [], generator.expovariate(1 / mean_seconds)
    while at < seconds:
        failures.append(Failure(at, KILL, generator.randrange(world)))
        at += generator.expovariate(1 / mean_seconds)
    for kind in RARE:
        failures.append(Failure(generator.uniform(0.1, 0.9) * seconds, kind, generator.randrange(1 << 16)))
    return sorted(failures)


def restarts_of(kinds: Sequence[str]) -> int:
    """How many failures of these kinds end an attempt for certain: a shard that is cut may lie behind the run."""
    return sum(kind != CUT_SHARD for kind in kinds)


def stops_of(kinds: Sequence[str]) -> int:
    """How many failures of these kinds stop a rank without ending it."""
    return kinds.count(HANG)
