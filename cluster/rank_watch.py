"""Judges a rank by its page and by its attempt's number, ten times a second: the supervisor acts on what this says."""

import logging

from cluster.fence import Fence
from cluster.heartbeat import HangLimits
from cluster.messages import Dead, Moving, Stuck
from cluster.rank_process import RankProcess

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 2.0
"""A turn that comes so late means that this process was stopped or starved, and that it knows nothing of the gang."""

GRACE_SECONDS = 1.0
"""After a pause the rank, which may have been stopped too, gets so long to show that it lives."""


class RankWatch:
    """Looks after the ranks of one supervisor, one after the other."""

    def __init__(self, limits: HangLimits, fence: Fence, now: float) -> None:
        self._limits = limits
        self._fence = fence
        self._turned = now
        self._judge_after = 0.0

    def look_up(self, now: float) -> None:
        """To be called first in every turn: was this process away?"""
        if now - self._turned > PAUSE_SECONDS:
            logger.warning("this supervisor did not run for %.1f s", now - self._turned)
            self._judge_after = now + GRACE_SECONDS
            self._fence.look()
        self._turned = now

    def newer_attempt(self, process: RankProcess | None) -> int | None:
        """The attempt that has begun while the rank lives, which within a gang never happens; None if none has."""
        if process is None or process.reaped or self._fence.newest <= process.attempt:
            return None
        return self._fence.newest

    def stopped(self, process: RankProcess, now: float) -> Dead | None:
        """That the rank is silent for longer than is borne; once."""
        if process.reported or now < self._judge_after:
            return None
        death = process.stopped(now, self._limits)
        if death is None:
            return None
        process.reported = True
        return Dead(process.attempt, death)

    def stuck(self, process: RankProcess, now: float) -> Stuck | Moving | None:
        """That the rank has come to stand still, or that it moves again."""
        if process.reported or now < self._judge_after:
            return None
        stuck = process.stuck(now, self._limits)
        if (stuck is not None) == process.stuck_told:
            return None
        process.stuck_told = stuck is not None
        return stuck or Moving(process.attempt, process.rank)
