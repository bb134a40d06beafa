"""Ranks that train a tiny GPT with frozen parts, adapters or perturbed embeddings, at several ZeRO stages, and carry
weights over a stage border.

Started by `test_tuning.py` as `python -m tests.trainer.tuning_world JOB.json...`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data_shards.dataset import Dataset
from data_shards.loader import LoaderState
from tests.trainer.parity_data import GLOBAL_BATCH, MODEL, SEED, make_loader
from tests.trainer.steps_world import CPU, run_in_group, run_steps
from tests.trainer.worlds import host
from trainer.batch import plan_batch
from trainer.checkpoint.load import CheckpointReader
from trainer.checkpoint.manifest import Header
from trainer.checkpoint.save import SaveTask, save_checkpoint
from trainer.checkpoint.store import agree_on_checkpoint
from trainer.collectives import broadcast_from_first
from trainer.engine import build_engine
from trainer.engine_state import prepare_optimizer, restore, snapshot
from trainer.rank import preload
from trainer.settings import TrainSettings

STEPS = 6
RATE = 3e-3
LOWER_HALF = ["wte.*", "wpe.*", "h.0.*"]
WAYS: dict[str, dict[str, Any]] = {
    "frozen": {"freeze": ["wpe.*", "h.0.ln_?.*", "h.0.mlp.*"], "layer_decay": 0.5},
    "adapters": {"lora": {"rank": 2, "alpha": 8.0, "targets": ["*.attn.c_attn", "*.mlp.*"]}},
    "adversarial": {"adversarial": {"epsilon": 0.5}},
    "all": {"freeze": ["h.0.*"], "layer_decay": 0.5, "lora": {"rank": 2}, "adversarial": {"epsilon": 0.5}},
}


def settings(zero_stage: int, **way: Any) -> TrainSettings:
    """Accumulation over micro-batches of 2, and clipping that bites."""
    document = {"max_steps": STEPS, "global_batch_size": GLOBAL_BATCH, "micro_batch_size": 2, "lr": RATE}
    return TrainSettings.model_validate({**document, "grad_clip": 0.5, "zero": {"stage": zero_stage}, **way})


class Trainee:
    """An engine with its place in the data."""

    def __init__(self, train: TrainSettings, dataset: Dataset, precision: str, seed: int = SEED) -> None:
        self.train_settings, self.precision, self.step, self.state = train, precision, 0, LoaderState()
        self.plan = plan_batch(GLOBAL_BATCH, train.micro_batch_size, dist.get_world_size())
        self.engine = build_engine(MODEL, train, self.plan, precision, seed, CPU)
        prepare_optimizer(self.engine)
        self.loader = make_loader(dataset, dist.get_rank(), dist.get_world_size(), self.plan.micro_batch)

    def train(self, steps: int) -> dict[str, list[Any]]:
        adversarial = self.train_settings.adversarial
        seen, self.state = run_steps(
            self.engine,
            self.plan,
            partial(self.loader.read, global_batch_size=GLOBAL_BATCH),
            range(self.step + 1, self.step + steps + 1),
            lambda _: RATE,
            self.state,
            epsilon=None if adversarial is None else adversarial.epsilon,
        )
        self.step += steps
        return seen

    def save(self, out_dir: Path, stage: int) -> None:
        world_size, zero_stage = dist.get_world_size(), self.train_settings.zero.stage
        header = Header("run", 1, self.step, 0, world_size, zero_stage, self.precision, {}, {}, stage=stage)
        save_checkpoint(SaveTask(out_dir, header, snapshot(self.engine), dist.get_rank()))
        dist.barrier()

    def load(self, out_dir: Path, stage: int) -> None:
        choice = agree_on_checkpoint(out_dir, rank=dist.get_rank(), broadcast=broadcast_from_first)
        assert choice is not None
        with CheckpointReader(choice.address, choice.manifest) as reader:
            restore(self.engine, reader, stage)


def train_way(case: dict[str, Any], dataset: Dataset) -> dict[str, list[float]]:
    trainee = Trainee(settings(case["zero_stage"], **WAYS[case["way"]]), dataset, "fp32")
    found = trainee.train(STEPS)
    trainee.engine.destroy()
    return found


def cross_border(case: dict[str, Any], dataset: Dataset) -> dict[str, list[float]]:
    """The upper half for three steps, a border, the whole for two; then back over the border, in the same engine."""
    out_dir = Path(case["out_dir"])
    lower = Trainee(settings(case["zero_stage"], freeze=LOWER_HALF), dataset, case["precision"])
    lower.train(3)
    lower.save(out_dir / "before", stage=0)
    lower.engine.destroy()
    whole = Trainee(settings(case["zero_stage"]), dataset, case["precision"], seed=SEED + 1)
    whole.step, whole.state = lower.step, lower.state
    whole.load(out_dir / "before", stage=1)
    whole.save(out_dir / "after", stage=1)
    went_on = whole.train(2)
    whole.load(out_dir / "before", stage=1)
    whole.step, whole.state = lower.step, lower.state
    again = whole.train(2)
    whole.engine.destroy()
    return {"went_on": went_on["losses"], "again": again["losses"]}


def work(job: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    return {
        name: train_way(case, dataset) if "way" in case else cross_border(case, dataset)
        for name, case in job["cases"].items()
    }


def run_rank(job_file: Path, rank: int) -> None:
    run_in_group(job_file, rank, work)


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
