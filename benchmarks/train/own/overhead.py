"""CPU time of a step whose batch is almost empty: what a step costs whatever its batch is, by phase and operation.

Options: stage (of Headrace; null: the bare loop, on several ranks DDP), model, steps, out. AdamW, gradients clipped,
fp32. Rank 0 leaves phases and operations in out/overhead.json.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from data_shards.loader import LoaderState, StepBatch
from model.config import GPTConfig
from model.gpt import GPT
from trainer.batch import plan_batch
from trainer.engine import build_engine
from trainer.engine_state import prepare_optimizer
from trainer.optimizer import build_optimizer
from trainer.optimizer_step import StepWatch, run_step
from trainer.own_time import OwnTime
from trainer.process_group import init_process_group
from trainer.seeds import make_deterministic
from trainer.settings import TrainSettings

TOKENS, SEED, RATE = 16, 7, 1e-3
RANK, WORLD_SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
WARM_STEPS, PROFILED_STEPS, SHOWN_OPERATIONS = 2, 3, 6
PHASES = ("before", "forward", "backward", "clip and update")

Mark = Callable[[], None]  # a phase has ended
Step = Callable[[int, Mark], None]


def bare_step(config: GPTConfig, train: TrainSettings, rows: np.ndarray) -> Step:
    """The bare loop's step."""
    torch.manual_seed(SEED)
    plain = GPT(config)
    parameters, optimizer = list(plain.parameters()), build_optimizer(plain, train)
    model = DistributedDataParallel(plain, gradient_as_bucket_view=True) if WORLD_SIZE > 1 else plain
    rows_bt = torch.from_numpy(rows)

    def step(number: int, mark: Mark) -> None:
        mark()
        loss = model(rows_bt[:, :-1], rows_bt[:, 1:]) / TOKENS
        mark()
        loss.backward()
        mark()
        torch.nn.utils.clip_grad_norm_(parameters, train.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        mark()

    return step


def own_step(config: GPTConfig, train: TrainSettings, rows: np.ndarray) -> Step:
    """Headrace's step; its beats tell the phases apart."""
    device = torch.device("cpu")
    plan = plan_batch(WORLD_SIZE, 1, WORLD_SIZE)
    engine = build_engine(config, train, plan, "fp32", SEED, device)
    prepare_optimizer(engine)
    batch = StepBatch(LoaderState(), "", rows, np.ones(1, dtype=np.bool_), TOKENS * WORLD_SIZE)
    own_time = OwnTime(device, counts_forward=train.zero.stage < 3)

    def step(number: int, mark: Mark) -> None:
        watch = StepWatch(lambda _, phase: mark(), own_time)  # at the start of forward, backward and collective
        run_step(engine, batch, plan, rate=RATE, seed=SEED, step=number, rank=RANK, watch=watch)
        mark()

    return step


def by_phase(step: Step, steps: int) -> dict[str, float]:
    """Median CPU milliseconds of each phase."""
    rows = []
    for number in range(1, WARM_STEPS + steps + 1):
        times = [time.process_time()]
        step(number, lambda times=times: times.append(time.process_time()))  # type: ignore[misc]
        rows.append([after - before for before, after in pairwise(times)])
    medians = [1000 * statistics.median(phase) for phase in zip(*rows[WARM_STEPS:], strict=True)]
    return dict(zip(PHASES, medians, strict=True))


def by_operation(step: Step, first: int) -> dict[str, float]:
    """CPU milliseconds a step of the operations that take most, without those within them."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for number in range(first, first + PROFILED_STEPS):
            step(number, lambda: None)
    events = sorted(profiler.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    return {event.key: event.self_cpu_time_total / 1000 / PROFILED_STEPS for event in events[:SHOWN_OPERATIONS]}


def main() -> None:
    """Leave phases and operations in a file."""
    torch.set_num_threads(1)
    asked: dict[str, Any] = json.loads(sys.argv[-1])
    config = GPTConfig.from_dict(asked["model"])
    zero = {} if asked["stage"] is None else {"zero": {"stage": asked["stage"]}}
    document = {"max_steps": 9, "global_batch_size": WORLD_SIZE, "micro_batch_size": 1, "lr": RATE, **zero}
    train, device = TrainSettings.model_validate(document), torch.device("cpu")
    make_deterministic("on", device)
    store = torch.distributed.FileStore(f"{asked['out']}/store", WORLD_SIZE)  # type: ignore[attr-defined]
    init_process_group(
        {"rank": RANK, "world_size": WORLD_SIZE, "local_rank": RANK, "attempt": 1, "store": store}, device
    )
    rows = np.random.default_rng(SEED).integers(config.real_vocab_size, size=(1, TOKENS + 1))
    step = (bare_step if asked["stage"] is None else own_step)(config, train, rows)
    phases = by_phase(step, asked["steps"])
    operations = by_operation(step, WARM_STEPS + asked["steps"] + 1)
    torch.distributed.barrier()
    if RANK == 0:
        Path(asked["out"], "overhead.json").write_text(json.dumps({"phases": phases, "operations": operations}))


if __name__ == "__main__":
    main()
