"""Ranks that save in the background while one of them cannot write, through a real process group and real files.

Started by `tests/faults/test_checkpoints.py` as `python -m tests.trainer.save_world JOB.json...`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.trainer.checkpointing import Saving
from tests.trainer.worlds import answer, host
from trainer.checkpoint import files
from trainer.checkpoint.store import file_name, folder_name
from trainer.collectives import gather_to_all
from trainer.errors import SaveFailedError

STALL_SECONDS, LONG_STALL_SECONDS = 3.0, 60.0


def fill_disk(out_dir: Path, step: int) -> None:
    """Let this rank's file of a step go to a device that is full."""
    folder = out_dir / "checkpoints" / folder_name(step, 1)
    folder.mkdir(parents=True, exist_ok=True)
    name = file_name(dist.get_rank(), dist.get_world_size())
    (folder / f".{name}.tmp").symlink_to("/dev/full")


def full_disk(rank: Saving, out_dir: Path) -> dict[str, Any]:
    """Rank 1 cannot write step 20, rank 0 cannot write step 40, the last."""
    rank.save(10, wait=True)
    if dist.get_rank() == 1:
        fill_disk(out_dir, 20)
    rank.save(20)
    rank.checkpointer.finish()
    left = sorted(path.name for path in (out_dir / "checkpoints").iterdir())
    dist.barrier()  # before another rank begins the next one
    rank.save(30, wait=True)
    if dist.get_rank() == 0:
        fill_disk(out_dir, 40)
    error = ""
    try:
        rank.save(40, wait=True)
    except SaveFailedError as failure:
        error = str(failure)
    return {"left": left, "errors": gather_to_all(error)}


def stalled(rank: Saving, out_dir: Path) -> dict[str, Any]:
    """Rank 1's storage takes seconds to sync one file; both ranks train on."""
    return _stalled(rank, STALL_SECONDS)


def stalled_for_a_minute(rank: Saving, out_dir: Path) -> dict[str, Any]:
    """The same, longer than the time-outs of most storage."""
    return _stalled(rank, LONG_STALL_SECONDS)


def _stalled(rank: Saving, seconds: float) -> dict[str, Any]:
    rank.save(10, wait=True)
    sync, deadline = os.fsync, time.monotonic() + seconds

    def slow_sync(descriptor: int) -> None:
        if dist.get_rank() == 1:
            time.sleep(max(0.0, deadline - time.monotonic()))
        sync(descriptor)

    files.os.fsync = slow_sync  # type: ignore[attr-defined]
    rank.save(20)
    step, longest, began = 20, 0.0, time.monotonic()
    while rank.checkpointer.is_saving(20):
        border = time.monotonic()
        step += 1
        rank.engine.step()
        dist.barrier()
        rank.checkpointer.poll()
        if rank.checkpointer.due(step):
            rank.save(step)
        longest = max(longest, time.monotonic() - border)
    stalled_seconds = time.monotonic() - began
    rank.checkpointer.finish()
    return {"steps": step - 20, "longest_step_seconds": longest, "stalled_seconds": stalled_seconds}


JOBS: dict[str, Callable[[Saving, Path], dict[str, Any]]] = {
    "full_disk": full_disk,
    "stalled": stalled,
    "stalled_for_a_minute": stalled_for_a_minute,
}


def run_rank(job_file: Path, rank: int) -> None:
    job = json.loads(job_file.read_text())
    store = dist.FileStore(str(job_file.with_suffix(".store")), job["world_size"])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job["world_size"])
    out_dir = Path(job["out_dir"])
    with Saving(out_dir) as saving:
        found = JOBS[job["job"]](saving, out_dir)
    if rank == 0:
        answer(job_file, {**found, "events": saving.events})
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(host(run_rank))
