"""A process that takes a rank's memory from a keeper and writes snapshots whose every value is the step's number.

`python -m tests.cluster.snapshot_taker TOKEN NODE STEPS`: it prints `written` after so many steps and waits to be
killed; with STEPS 0 it writes on and on, sometimes twice without a pause.
"""

from __future__ import annotations

import sys
import time

import torch

from cluster.snapshot_keeper_client import take_snapshot_memory
from trainer.checkpoint.fragments import Fragment
from trainer.checkpoint.memory import SnapshotMemory

ELEMENTS = 200_000
PAUSES_SECONDS = (0.0, 0.002, 0.02)


def identity(rank: int) -> dict[str, object]:
    return {"run_id": "mill", "rank": rank}


def fragments(value: float, elements: int = ELEMENTS) -> list[Fragment]:
    return [Fragment("w", 0, *(torch.full((elements,), value) for _ in range(3)), step=value)]


def memory_of(fd: int, rank: int, elements: int = ELEMENTS) -> SnapshotMemory:
    return SnapshotMemory(fd, identity(rank), elements)


def write(memory: SnapshotMemory, value: int, elements: int = ELEMENTS, at: int | None = None) -> None:
    """Write a snapshot whose every value is that one; at: its step, by default the same number."""
    memory.write(value if at is None else at, {"step": value}, fragments(value, elements))


def values(memory: SnapshotMemory, step: int, elements: int = ELEMENTS) -> set[float]:
    """All values of a step's snapshot, and the step in its note."""
    parts = fragments(-1.0, elements)
    note = memory.read_into(step, parts)
    tensors = (parts[0].master, parts[0].exp_avg, parts[0].exp_avg_sq)
    return {value for tensor in tensors for value in tensor.unique().tolist()} | {float(note["step"])}


def main(token: str, node: str, steps: int) -> None:
    """Take the memory of rank 0 of 1 and write."""
    torch.set_num_threads(1)
    taken = take_snapshot_memory(token, node, 0, 1, 10.0)
    assert taken is not None
    memory = memory_of(taken[0], 0)
    step = 0
    while not steps or step < steps:
        step += 1
        write(memory, step)
        if not steps:
            time.sleep(PAUSES_SECONDS[step % 3])
    sys.stdout.write("written\n")
    sys.stdout.flush()
    time.sleep(60.0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
