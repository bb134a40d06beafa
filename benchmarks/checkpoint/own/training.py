"""Headrace's own trainer as `python -m trainer` runs it; what is needed of it is read off its journal.

Only two things are watched from outside: when a checkpoint counts (its manifest is there and synced), and, where the
saves are to be checked, the weights at the moment of a save. Beside these, when each phase of a save was over.
"""

from __future__ import annotations

from trainer.allocator import restart_keeping_memory

if __name__ == "__main__":
    restart_keeping_memory()  # as `python -m trainer` begins: before torch is there

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.checkpoint.blocks import Save
from benchmarks.checkpoint.peers import loop
from monitoring.journal import read_records
from trainer import build
from trainer.checkpoint.load import read_full_parameters
from trainer.checkpoint.store import list_checkpoints
from trainer.checkpointer import Checkpointer
from trainer.command import run

COPIED, WRITTEN, DONE = "mid-save", "before-rename", "after-save"
"""Copied, and the first 4 MiB written; all written, hashed and synced; the manifest is there too, and this rank's part
is over."""


def watch_saves(times: dict[int, dict[str, float]], digests: dict[int, str], verify: bool) -> None:
    """Note when each phase of each save was over, and with `verify` the weights that it saves."""

    def at(step: int, phase: str) -> None:
        times[step][phase] = time.time()

    build.no_fault = at  # type: ignore[assignment]
    start: Callable[..., Any] = Checkpointer._start

    def noted(self: Any, place: Any) -> None:
        digests[place.step] = loop.digest(dict(self._engine.module.named_parameters()))
        start(self, place)

    if verify:
        Checkpointer._start = noted  # type: ignore[method-assign]


def phases(asked: float, times: Mapping[str, float], event: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each phase of a save on rank 0, and for how long the loop stood still for it, by the journal."""
    ends = [asked, times[COPIED], times[WRITTEN], times[DONE]]
    copied, written, counted = (end - begin for begin, end in pairwise(ends))
    still = event["stall_seconds"] + event["held_seconds"]
    return {"copied": copied, "written": written, "counted": counted, "stood_still": still}


def main() -> int:
    """Train; rank 0 leaves the answer."""
    asked = loop.options()
    out = Path(asked["out"])
    times: dict[int, dict[str, float]] = defaultdict(dict)
    digests: dict[int, str] = {}
    watch_saves(times, digests, asked["verify"])
    status = run([asked["file"], *(word for change in asked["set"] for word in ("--set", change))])
    if status or os.environ["RANK"] != "0":
        return status
    records = list(read_records(out))
    ends = {record["step"]: record["time"] for record in records if "event" not in record}
    events = {record["step"]: record for record in records if record.get("event") == "checkpoint"}
    saved = [step for step in sorted(times) if step < asked["steps"]]
    saves = [Save(step, ends[step], times[step][DONE]) for step in saved]
    seconds = {"phases": [phases(ends[step], times[step], events[step]) for step in saved]}
    addresses = {entry.step: entry.address for entry in list_checkpoints(out, str(out / "saved"))}
    kept = {step: found for step, found in digests.items() if step in addresses}
    loaded = {step: loop.digest(dict(read_full_parameters(addresses[step]))) for step in kept}
    loop.write_answer(asked, ends, saves, kept, loaded, ("torch", "deepspeed"), seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
