"""How long a submission stood in line: its entry process measures it, its driver puts it into the run's journal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.gang_journal import append_event
from monitoring.journal import read_records
from monitoring.time_in_line import QUEUED_EVENT
from trainer.attempts import newest_attempt

OPTION = "--queued"
"""Of `headrace run`, for the entry process alone: since when, until when, in unix seconds."""


@dataclass(frozen=True)
class TimeInLine:
    """From when the job server took a submission in until its turn came, in unix seconds."""

    since: float
    until: float

    def to_words(self) -> list[str]:
        """For the driver's command line."""
        return [OPTION, repr(self.since), repr(self.until)]


def tell_time_in_line(out_dir: Path, told: TimeInLine) -> None:
    """Put it into the journal, before the attempt to come; once, however often the submission's driver is started."""
    before = [record for record in read_records(out_dir) if record.get("event") == QUEUED_EVENT]
    if all(record["since"] != told.since for record in before):
        attempt = newest_attempt(out_dir) + 1
        append_event(out_dir, attempt, QUEUED_EVENT, since=told.since, seconds=told.until - told.since)
