"""Headrace's own trainer as `python -m trainer` runs it; what is needed of it is read off its journal.

Only two things are watched from outside: when a checkpoint counts (its manifest is there and synced), and, where the
saves are to be checked, the weights at the moment of a save.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
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


def watch_saves(durable: dict[int, float], digests: dict[int, str], verify: bool) -> None:
    """Note the end of each save, and with `verify` the weights that it saves."""

    def at(step: int, phase: str) -> None:
        if phase == "after-save":
            durable[step] = time.time()

    build.no_fault = at  # type: ignore[assignment]
    start: Callable[..., Any] = Checkpointer._start

    def noted(self: Any, place: Any) -> None:
        digests[place.step] = loop.digest(dict(self._engine.module.named_parameters()))
        start(self, place)

    if verify:
        Checkpointer._start = noted  # type: ignore[method-assign]


def main() -> int:
    """Train; rank 0 leaves the answer."""
    asked = loop.options()
    out = Path(asked["out"])
    durable: dict[int, float] = {}
    digests: dict[int, str] = {}
    watch_saves(durable, digests, asked["verify"])
    status = run([asked["file"], *(word for change in asked["set"] for word in ("--set", change))])
    if status or os.environ["RANK"] != "0":
        return status
    records = [record for record in read_records(out) if "event" not in record]
    ends = {record["step"]: record["time"] for record in records}
    saves = [Save(step, ends[step], durable[step]) for step in sorted(durable) if step < asked["steps"]]
    addresses = {entry.step: entry.address for entry in list_checkpoints(out, str(out / "saved"))}
    kept = {step: found for step, found in digests.items() if step in addresses}
    loaded = {step: loop.digest(dict(read_full_parameters(addresses[step]))) for step in kept}
    loop.write_answer(asked, ends, saves, kept, loaded, ("torch", "deepspeed"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
