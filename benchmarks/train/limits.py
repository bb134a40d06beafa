"""What limits the rows that are not reached, as a profiler showed it."""

from __future__ import annotations

LIMITS = "### What limits\n\nNothing is known yet."
