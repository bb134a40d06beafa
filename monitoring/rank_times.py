"""What a step takes each rank by itself, outside the collectives in which all wait for the slowest. Pure.

A `rank_times` event has `seconds` and `nodes`, both by rank; seconds are medians over some steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from monitoring.journal import Record


def slowest_rank_text(events: Sequence[Record]) -> str | None:
    """Which rank, on which node, took longest at the newest event; None without one, or with one rank."""
    if not events or len(events[-1]["seconds"]) < 2:
        return None
    seconds, nodes = events[-1]["seconds"], events[-1]["nodes"]
    slowest = max(range(len(seconds)), key=lambda rank: seconds[rank])
    others = statistics.median(each for rank, each in enumerate(seconds) if rank != slowest)
    return f"rank {slowest} on {nodes[slowest]}: {seconds[slowest]:.3f} s a step by itself, the others {others:.3f} s"


def rank_metrics(seconds: Sequence[float]) -> dict[str, float | None]:
    """What MLflow shows of an event: the slowest rank, and the middle of them."""
    return {"rank_seconds_slowest": max(seconds), "rank_seconds_median": statistics.median(seconds)}
