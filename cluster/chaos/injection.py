"""What was done to a run, and when."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cluster.chaos.plan import Fault


@dataclass
class Injection:
    """A fault that happened. Times are unix seconds.

    index: the fault's place in the plan; target: what it hit, in words; step: the newest in the journal just before;
    gone_seconds: until the processes that had to go with what was killed had all ended, None where that is not looked
    at or did not come about; exit_status: the driver's, of faults that end it; path: of what was damaged.
    """

    index: int
    fault: Fault
    target: str
    time: float
    step: int
    gone_seconds: float | None = None
    exit_status: int | None = None
    path: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "fault": self.fault.model_dump(mode="json", exclude_none=True)}
