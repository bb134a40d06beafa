"""Ranks that train a tiny GPT with frozen parts, adapters or perturbed embeddings, at several ZeRO stages, and carry
weights over a stage border.

Started by `test_tuning.py` as `python -m tests.trainer.tuning_world JOB.json...`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from data_shards.dataset import Dataset
from data_shards.loader import LoaderState
from tests.trainer.parity_world import GLOBAL_BATCH, MODEL, SEED, make_dataset, make_loader
from tests.trainer.worlds import answer, host
from trainer.batch import plan_batch
from trainer.checkpoint.load import CheckpointReader
from trainer.checkpoint.manifest import Header
from trainer.checkpoint.save import SaveTask, save_checkpoint
from trainer.checkpoint.store import agree_on_checkpoint
from trainer.engine import build_engine
from trainer.engine_state import prepare_optimizer, restore, snapshot
from trainer.optimizer_step import StepWatch, run_step
from trainer.own_time import OwnTime
from trainer.process_group import broadcast_from_first, init_process_group
from trainer.rank import no_beat, preload
from trainer.seeds import make_deterministic
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
        self.device = torch.device("cpu")
        self.plan = plan_batch(GLOBAL_BATCH, train.micro_batch_size, dist.get_world_size())
        self.engine = build_engine(MODEL, train, self.plan, precision, seed, self.device)
        prepare_optimizer(self.engine)
        self.loader = make_loader(dataset, dist.get_rank(), dist.get_world_size(), self.plan.micro_batch)
        self.watch = StepWatch(no_beat, OwnTime(self.device, counts_forward=train.zero.stage < 3))

    def train(self, steps: int) -> dict[str, list[float]]:
        adversarial = self.train_settings.adversarial
        losses, norms = [], []
        for _ in range(steps):
            self.step += 1
            batch = self.loader.read(self.state, GLOBAL_BATCH)
            result = run_step(
                self.engine,
                batch,
                self.plan,
                rate=RATE,
                seed=SEED,
                step=self.step,
                rank=dist.get_rank(),
                watch=self.watch,
                epsilon=None if adversarial is None else adversarial.epsilon,
            )
            self.state = batch.state_after
            losses.append(result.loss)
            norms.append(result.grad_norm)
        return {"losses": losses, "norms": norms}

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


def run_rank(job_file: Path, rank: int) -> None:
    job: dict[str, Any] = json.loads(job_file.read_text())
    device = torch.device("cpu")
    make_deterministic("on", device)
    world_size = job["world_size"]
    spec = {"rank": rank, "world_size": world_size, "local_rank": rank, "attempt": 1}
    store = dist.FileStore(str(job_file.with_suffix(".store")), world_size)
    init_process_group({**spec, "store": store}, device)
    dataset = make_dataset(job_file.parent / f"data-{world_size}-{rank}")
    answers = {}
    for name, case in job["cases"].items():
        answers[name] = train_way(case, dataset) if "way" in case else cross_border(case, dataset)
    if rank == 0:
        answer(job_file, answers)
    dist.barrier()


if __name__ == "__main__":
    preload()
    sys.exit(host(run_rank))
