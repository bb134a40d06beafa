"""One rank that takes real steps while the memory of its live tensors is counted.

Started by `test_plan_memory.py` as `python -m tests.trainer.memory_world JOB.json...`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from data_shards.loader import LoaderState, StepBatch
from model.config import GPTConfig
from tests.live_tensors import LiveTensors
from tests.trainer.worlds import answer, host
from trainer.batch import BatchPlan, plan_batch
from trainer.collectives import gather_to_first
from trainer.engine import build_engine
from trainer.engine_state import prepare_optimizer
from trainer.optimizer_step import StepWatch, run_step
from trainer.own_time import OwnTime
from trainer.process_group import init_process_group
from trainer.rank import preload
from trainer.seeds import make_deterministic
from trainer.settings import TrainSettings

SEED = 7
STEPS = 4  # the first one makes what later ones find


class Phases:
    """The highest count between one beat and the next, by the phase that the beat began, step by step.

    Steps after the first are alike, and of theirs the lowest counts: gloo's thread may hold a buffer for a moment
    longer than the collective takes, which adds to a peak by chance.
    """

    def __init__(self, live: LiveTensors) -> None:
        self._live = live
        self._place = (0, "between")
        self._peaks: dict[tuple[int, str], int] = {}

    def beat(self, step: int, phase: str) -> None:
        """End a phase and begin the next."""
        self._peaks[self._place] = max(self._peaks.get(self._place, 0), self._live.peak_bytes)
        self._place = (step, phase)
        self._live.restart()

    def peak(self) -> int:
        """Of the phase that needs most."""
        phases = {phase for step, phase in self._peaks if step == STEPS}
        return max(min(self._peaks[step, phase] for step in range(2, STEPS + 1)) for phase in phases)


def batch_of(config: GPTConfig, plan: BatchPlan) -> StepBatch:
    """Rows of random tokens."""
    rows = plan.rows_per_rank
    tokens = np.random.default_rng(SEED).integers(config.real_vocab_size, size=(rows, config.max_seq_len + 1))
    real = np.ones(rows, dtype=np.bool_)
    return StepBatch(LoaderState(), "", tokens, real, plan.global_batch * config.max_seq_len)


def measure(case: dict[str, Any], rank: int, world_size: int) -> dict[str, Any]:
    """Live bytes of this rank between steps, and their peaks by phase."""
    config = GPTConfig.from_dict(case["model"])
    train = TrainSettings.model_validate(case["train"])
    plan = plan_batch(train.global_batch_size, train.micro_batch_size, world_size)
    device = torch.device("cpu")
    with LiveTensors() as live:
        engine = build_engine(config, train, plan, case["precision"], SEED, device)
        prepare_optimizer(engine)
        phases = Phases(live)
        watch = StepWatch(phases.beat, OwnTime(device, counts_forward=train.zero.stage < 3))
        batch = batch_of(config, plan)
        for step in range(1, STEPS + 1):
            run_step(engine, batch, plan, rate=1e-3, seed=SEED, step=step, rank=rank, watch=watch)
            phases.beat(step, "between")
        phases.beat(STEPS, "end")
        found = {"rest": live.now_bytes, "peak": phases.peak()}
    engine.destroy()
    return found


def run_rank(job_file: Path, rank: int) -> None:
    job: dict[str, Any] = json.loads(job_file.read_text())
    world_size, device = job["world_size"], torch.device("cpu")
    make_deterministic("on", device)
    store = torch.distributed.FileStore(str(job_file.with_suffix(".store")), world_size)
    place = {"rank": rank, "world_size": world_size, "local_rank": rank, "attempt": 1}
    init_process_group({**place, "store": store}, device)
    found = gather_to_first(measure(job, rank, world_size))
    if rank == 0:
        answer(job_file, {"ranks": found})
    dist.barrier()


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
