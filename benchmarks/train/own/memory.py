"""Bytes of a rank of Headrace: the engine and the step that a run takes. Options: model, train, out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from benchmarks.train.counting import CountedTensors, count_steps
from model.config import GPTConfig
from tests.trainer.memory_world import batch_of
from trainer.batch import plan_batch
from trainer.engine import build_engine
from trainer.engine_state import prepare_optimizer
from trainer.optimizer_step import StepWatch, run_step
from trainer.own_time import OwnTime
from trainer.process_group import init_process_group
from trainer.rank import no_beat
from trainer.seeds import make_deterministic
from trainer.settings import TrainSettings

SEED = 7


def main() -> None:
    """Leave the bytes in a file."""
    asked = json.loads(sys.argv[-1])
    rank, world_size, device = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), torch.device("cpu")
    torch.set_num_threads(1)
    make_deterministic("on", device)
    store = torch.distributed.FileStore(f"{asked['out']}/store", world_size)  # type: ignore[attr-defined]
    spec = {"rank": rank, "world_size": world_size, "local_rank": rank, "attempt": 1, "store": store}
    init_process_group(spec, device)
    config, train = GPTConfig.from_dict(asked["model"]), TrainSettings.model_validate(asked["train"])
    plan = plan_batch(train.global_batch_size, train.micro_batch_size, world_size)
    with CountedTensors() as live:
        engine = build_engine(config, train, plan, "fp32", SEED, device)
        prepare_optimizer(engine)
        watch = StepWatch(no_beat, OwnTime(device, counts_forward=train.zero.stage < 3))
        batch = batch_of(config, plan)
        found = count_steps(
            live,
            lambda step: (
                run_step(engine, batch, plan, rate=1e-3, seed=SEED, step=step, rank=rank, watch=watch) and None
            ),
        )
    Path(asked["out"], f"bytes-{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    engine.destroy()


if __name__ == "__main__":
    main()
