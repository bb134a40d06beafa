"""An entry that is the trainer's, but stops itself (SIGSTOP) where the run's spec says so.

spec["stops"]: a list of {"rank", "attempt", "step", "phase"}; each moment is written to OUT_DIR/stops.jsonl before.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.cluster.fake_rank import note_time
from trainer import rank
from trainer.rank import preload

__all__ = ["main", "preload"]


def main(spec: dict[str, Any]) -> int:
    """Train, with the stops."""
    heartbeat = spec["heartbeat"]
    beat = heartbeat.beat
    mine = [stop for stop in spec["stops"] if (stop["rank"], stop["attempt"]) == (spec["rank"], spec["attempt"])]

    def beat_and_stop(step: int, phase: str) -> None:
        beat(step, phase)
        if any((stop["step"], stop["phase"]) == (step, phase) for stop in mine):
            note_time(Path(spec["out_dir"]), "stops", spec)
            os.kill(os.getpid(), signal.SIGSTOP)

    heartbeat.beat = beat_and_stop
    return rank.main(spec)
