"""When a job's driver is started again: a pure policy over its ends."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace

from cluster.jobs.job import FAILED, INTERRUPTED, STOPPED

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0
STEADY_SECONDS = 300.0
"""A driver that has run so long ended for a new reason: the waits begin anew, the budget does not."""


@dataclass(frozen=True)
class Again:
    """Start it again after a while."""

    after_seconds: float
    text: str


@dataclass(frozen=True)
class Over:
    """The job ends with that exit status; text: why, where it is not plain."""

    exit_status: int
    text: str = ""


@dataclass(frozen=True)
class DriverRestarts:
    """The budget, and what was used of it. quick: restarts in a row after less than STEADY_SECONDS."""

    budget: int
    used: int = 0
    quick: int = 0

    def after(self, status: int, ran_seconds: float, stop_asked: bool) -> tuple[DriverRestarts, Again | Over]:
        """What follows the end of a driver.

        Only a signal is an accident that a new driver mends. What a driver ends with by itself is passed on: done (0),
        a failure that its own budgets did not mend (1), the user's input (2), a stop (3).

        Args:
            status: exit status, negative for a signal; stop_asked: of the run, or of the job.
        """
        if status >= 0:
            return self, Over(STOPPED if status == INTERRUPTED and stop_asked else status)
        name = signal.Signals(-status).name
        if stop_asked:
            return self, Over(FAILED, f"the driver was ended by {name} while it was to stop; `headrace resume` goes on")
        if self.used >= self.budget:
            text = f"the driver was ended by {name}; {self.used} restarts used of cluster.max_driver_restarts"
            return self, Over(FAILED, text)
        quick = self.quick + 1 if ran_seconds < STEADY_SECONDS else 1
        wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (quick - 1))
        text = f"the driver was ended by {name}; start {self.used + 1} of {self.budget} anew in {wait:g} s"
        return replace(self, used=self.used + 1, quick=quick), Again(wait, text)
