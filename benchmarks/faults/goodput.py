"""Goodput under a failure trace, and the bound that measured recovery allows. Pure."""

from __future__ import annotations


def goodput(new_steps: int, step_seconds: float, wall_seconds: float) -> float:
    """Useful time over wall time: new steps, each worth an undisturbed one."""
    return new_steps * step_seconds / wall_seconds


def bound(wall_seconds: float, restarts: int, lost_seconds: float, stall_seconds: float) -> float:
    """The most that the wall time allows. lost_seconds: what a single kill cost, by itself, in the same run; it is the
    gap around it less the step that ends it. stall_seconds: all that is waited for beside: before a hang is told, and
    for checkpoints."""
    return max(0.0, wall_seconds - restarts * lost_seconds - stall_seconds) / wall_seconds
