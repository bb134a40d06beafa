"""Bad records: counted by reason, placed, and refused or left out."""

import logging
from collections import Counter
from dataclasses import dataclass, field

from data_shards.errors import DataError

logger = logging.getLogger(__name__)


@dataclass
class Rejects:
    """Counts what is left out. Under `fail` the first bad record raises DataError; under `skip` it is logged."""

    on_bad_record: str
    empty: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    logged_per_reason: int = 5

    def reject(self, reason: str, where: str, found: str) -> None:
        """One bad record: `reason` is counted, `where` is file and line, `found` the value."""
        message = f"{where}: {reason}: {found}"
        if self.on_bad_record == "fail":
            raise DataError(f"{message}: correct the file, or set data.on_bad_record: skip")
        self.skipped[reason] += 1
        if self.skipped[reason] <= self.logged_per_reason:
            logger.warning("skipped %s", message)
