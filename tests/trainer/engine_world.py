"""One rank of a process group that trains tiny DeepSpeed engines, saves them and loads them into others.

Started by `test_engine_state.py` as `python -m tests.trainer.engine_world JOB.json...`. The jobs run one after the
other, each in a process group of its own; rank 0 writes the answers as JSON. Imports take seconds, so they are done
once and the ranks are forked, and many engines share a rank.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import deepspeed.runtime.zero.muon.muon_optimizer
import torch
import torch._dynamo
import torch._inductor.compile_fx
import torch.distributed as dist
from torch import nn

from tests.trainer.worlds import answer, host
from trainer.checkpoint.load import CheckpointReader
from trainer.checkpoint.manifest import Header
from trainer.checkpoint.save import SaveTask, save_checkpoint
from trainer.checkpoint.store import agree_on_checkpoint
from trainer.engine_state import prepare_optimizer, restore, snapshot
from trainer.optimizer import build_optimizer
from trainer.settings import TrainSettings

ROWS = 6  # divides by 1, 2 and 3 ranks
VOCABULARY = 13


class Tiny(nn.Module):
    """Odd sizes, a tied weight, a frozen parameter and a buffer."""

    offset: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 5)
        self.first = nn.Linear(5, 11)
        self.frozen = nn.Linear(11, 11, bias=False)
        self.norm = nn.LayerNorm(11)
        self.second = nn.Linear(11, 5)
        self.head = nn.Linear(5, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight
        self.frozen.weight.requires_grad_(False)
        self.register_buffer("offset", torch.rand(5))

    def forward(self, ids_b: torch.Tensor, labels_b: torch.Tensor) -> torch.Tensor:
        hidden = self.first(self.embed(ids_b))
        hidden = self.second(torch.tanh(self.norm(self.frozen(hidden))))
        return nn.functional.cross_entropy(self.head(hidden + self.offset.to(hidden.dtype)).float(), labels_b)


def build(case: dict[str, Any], seed: int) -> Any:
    """An engine of the case's stage and precision; the weights depend on the seed alone."""
    torch.manual_seed(seed)
    model = Tiny()
    micro = ROWS // dist.get_world_size()
    config: dict[str, Any] = {
        "train_batch_size": ROWS,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_clipping": 1.0,
        # The default of half a billion elements is allocated, and where kernels are deterministic filled, at each step.
        "zero_optimization": {"stage": case["stage"], "reduce_bucket_size": 1000, **case.get("zero", {})},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
    if case["precision"] != "fp32":
        config[case["precision"]] = {"enabled": True}
        if case["stage"] > 0:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    train = {"max_steps": 1, "global_batch_size": ROWS, "lr": 0.01, "optimizer": case.get("optimizer", {})}
    optimizer = build_optimizer(model, TrainSettings.model_validate(train))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    prepare_optimizer(engine)
    return engine


def train(engine: Any, steps: range) -> list[str]:
    """Losses over the global batch, as `float.hex`."""
    losses = []
    micro = ROWS // dist.get_world_size()
    mine = slice(dist.get_rank() * micro, (dist.get_rank() + 1) * micro)
    for step in steps:
        generator = torch.Generator().manual_seed(1000 + step)
        ids, labels = torch.randint(VOCABULARY, (2, ROWS), generator=generator)
        loss = engine(ids[mine], labels[mine])
        engine.backward(loss)
        engine.step()
        total = loss.detach().double()
        dist.all_reduce(total)
        losses.append((float(total) / dist.get_world_size()).hex())
    return losses


def save(engine: Any, out_dir: Path, step: int, case: dict[str, Any]) -> None:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    own = {"rank": torch.tensor([rank])}
    settings: dict[str, Any] = {}
    where = Header("run", 1, step, step * ROWS, world_size, case["stage"], case["precision"], {}, settings)
    save_checkpoint(SaveTask(out_dir, where, snapshot(engine, own), rank))
    dist.barrier()


def load(engine: Any, out_dir: Path) -> None:
    choice = agree_on_checkpoint(out_dir, rank=dist.get_rank(), broadcast=broadcast)
    assert choice is not None
    with CheckpointReader(choice.address, choice.manifest) as reader:
        restore(engine, reader)
        own = reader.rank_tensors(dist.get_rank(), dist.get_world_size())
    assert own is None or own["rank"].tolist() == [dist.get_rank()]


def broadcast(value: Any) -> Any:
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def job_write(case: dict[str, Any]) -> dict[str, Any]:
    """Save at step 0 and at step 3, go on to step 6; load step 3 into a fresh engine and go the same way."""
    out_dir = Path(case["out_dir"])
    engine = build(case, seed=1)
    save(engine, out_dir / "start", 0, case)
    losses = train(engine, range(3))
    save(engine, out_dir, 3, case)
    went_on = train(engine, range(3, 6))
    save(engine, out_dir / "went_on", 6, case)
    engine.destroy()
    fresh = build(case, seed=2)
    load(fresh, out_dir)
    resumed = train(fresh, range(3, 6))
    save(fresh, out_dir / "resumed", 6, case)
    fresh.destroy()
    return {"losses": losses, "went_on": went_on, "resumed": resumed}


def job_read(case: dict[str, Any]) -> dict[str, Any]:
    """Load what another wrote into a trained engine of other weights, save it unchanged, go on."""
    engine = build(case, seed=3)
    train(engine, range(50, 52))
    load(engine, Path(case["from"]))
    save(engine, Path(case["out_dir"]), 3, case)
    losses = train(engine, range(3, 5))
    engine.destroy()
    return {"losses": losses}


JOBS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"write": job_write, "read": job_read}


def run_rank(job_file: Path, rank: int) -> None:
    job = json.loads(job_file.read_text())
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job["world_size"]))
    torch.use_deterministic_algorithms(True)
    meeting = job_file.with_suffix(".store").absolute().as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=job["world_size"])
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    answers = {case["name"]: JOBS[case["job"]](case) for case in job["cases"]}
    if rank == 0:
        answer(job_file, answers)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(host(run_rank))
