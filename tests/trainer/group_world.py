"""One rank of a process group that makes an engine of each ZeRO stage, and tells which groups there are.

Started by `test_process_group.py` as `python -m tests.trainer.group_world JOB.json`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed.comm
import torch
import torch.distributed as dist
from deepspeed.utils import groups
from torch.distributed import FileStore, distributed_c10d

from model.config import GPTConfig
from tests.trainer.worlds import answer, host
from trainer.batch import plan_batch
from trainer.engine import build_engine
from trainer.process_group import init_process_group
from trainer.rank import preload
from trainer.settings import TrainSettings

CPU = torch.device("cpu")
MODEL = GPTConfig(vocab_size=64, real_vocab_size=64, max_seq_len=8, n_layer=1, n_head=1, n_embd=8)


def timeouts() -> list[float]:
    """Seconds that each group of this process waits for a collective."""
    found = []
    for group in distributed_c10d._world.pg_map:
        timeout: timedelta = group._get_backend(CPU).options._timeout
        found.append(timeout.total_seconds())
    return found


def raises_at(act: Callable[[], Any]) -> float:
    """Seconds until the call raises, which it must."""
    began = time.monotonic()
    try:
        act()
    except RuntimeError:
        return time.monotonic() - began
    raise AssertionError("a collective without its peer came to an end")


def run_rank(job_file: Path, rank: int) -> None:
    job = json.loads(job_file.read_text())
    store = FileStore(str(job_file.with_suffix(".store")), job["world_size"])
    place = {"rank": rank, "local_rank": rank, "world_size": job["world_size"], "attempt": 1}
    init_process_group({**place, "store": store, "collective_seconds": job["collective_seconds"]}, CPU)
    found = {}
    for stage in job["stages"]:
        before = len(timeouts())
        train = TrainSettings(max_steps=1, global_batch_size=2, micro_batch_size=1, lr=1e-3, zero={"stage": stage})
        build_engine(MODEL, train, plan_batch(2, 1, job["world_size"]), "fp32", 1, CPU)
        found[stage] = {"groups": len(timeouts()) - before, "timeouts": timeouts()}
    found["late"] = timeouts() if deepspeed.comm.new_group([0, 1]) is not None else []
    gone = job_file.with_suffix(".gone")
    if rank == 0:
        waiting = [dist.group.WORLD, groups._clone_world_group()]
        found["raised"] = [
            raises_at(lambda group=group: dist.all_reduce(torch.ones(1), group=group)) for group in waiting
        ]
        answer(job_file, found)
        gone.touch()
    while not gone.exists():  # it stands still, as far as the other can see
        time.sleep(0.05)


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
