"""The bare training loop in which the peers save: Headrace's model and kernels, fused AdamW, DDP on several ranks.

Standard library, torch and Headrace's model alone, so that it runs in the peers' environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.checkpoint.blocks import Save, is_saved
from model.config import GPTConfig
from model.gpt import GPT

LR, BETAS, WEIGHT_DECAY = 1e-3, (0.9, 0.95), 0.1


class Saver(Protocol):
    """A way of saving."""

    def save(self, step: int) -> None:
        """Begin the save of a step, or make it; all ranks call it."""

    def hold_still(self) -> None:
        """Wait for what must be copied before weights change."""

    def finish(self) -> Mapping[int, float]:
        """Wait for all saves; unix seconds at which each step's was durable."""

    def load(self, step: int) -> Mapping[str, torch.Tensor]:
        """The parameters of a saved step, as read from disk."""


def options() -> dict[str, Any]:
    """What the arm was asked to do: the JSON of its last argument."""
    return dict(json.loads(sys.argv[-1]))


def join() -> tuple[int, int]:
    """Rank and world size, in a gloo group."""
    dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def build_model(asked: Mapping[str, Any]) -> GPT:
    """The model; the same weights on every rank."""
    torch.manual_seed(1)
    return GPT(GPTConfig.from_dict(asked["model"]))


def build_optimizer(model: torch.nn.Module) -> torch.optim.AdamW:
    """Headrace's default optimizer and what it decays."""
    decayed = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    rest = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)


def wrapped(model: GPT) -> torch.nn.Module:
    """With DDP where there are several ranks."""
    return DistributedDataParallel(model) if dist.get_world_size() > 1 else model


def rows(asked: Mapping[str, Any], step: int) -> torch.Tensor:
    """This rank's rows of a step, int64 [R, T+1]."""
    generator = torch.Generator().manual_seed(step * 1000 + dist.get_rank())
    shape = asked["batch"] // dist.get_world_size(), asked["seq_len"] + 1
    return torch.randint(asked["model"]["real_vocab_size"], shape, generator=generator)


def loss_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the rows."""
    loss: torch.Tensor = model(tokens[:, :-1], tokens[:, 1:])
    return loss / tokens[:, 1:].numel()


def train(asked: Mapping[str, Any], model: Any, optimizer: torch.optim.Optimizer, saver: Saver) -> None:
    """Run the steps with their saves, and leave the answer."""

    def one_step(step: int) -> None:
        loss_of(model, rows(asked, step)).backward()
        saver.hold_still()
        optimizer.step()
        optimizer.zero_grad()

    run(asked, one_step, getattr(model, "module", model), saver)


def run(asked: Mapping[str, Any], one_step: Any, module: torch.nn.Module, saver: Saver) -> None:
    """Step by step; a save after every second block; rank 0 writes `answer.json`."""
    ends: dict[int, float] = {}
    digests: dict[int, str] = {}
    for step in range(1, asked["steps"] + 1):
        one_step(step)
        ends[step] = time.time()
        if is_saved(step, asked["block"], asked["steps"]):
            if asked["verify"]:
                digests[step] = digest(dict(module.named_parameters()))
            saver.save(step)
    durable = saver.finish()
    dist.barrier()
    if dist.get_rank() == 0:
        saves = [Save(step, ends[step], durable.get(step)) for step in ends if _saved(step, asked)]
        loaded = {step: digest(saver.load(step)) for step in digests}
        write_answer(asked, ends, saves, digests, loaded, ("torch",))
    dist.barrier()
    dist.destroy_process_group()


def _saved(step: int, asked: Mapping[str, Any]) -> bool:
    return is_saved(step, asked["block"], asked["steps"])


def write_answer(
    asked: Mapping[str, Any],
    ends: Mapping[int, float],
    saves: list[Save],
    digests: Mapping[int, str],
    loaded: Mapping[int, str],
    packages: tuple[str, ...],
    more: Mapping[str, Any] | None = None,
) -> None:
    """What the harness reads. digests: of the weights at each save; loaded: of what was read back; more: anything."""
    answer = {
        "ends": list(ends.items()),
        "saves": [[save.step, save.asked, save.durable] for save in saves],
        "digests": list(digests.items()),
        "loaded": list(loaded.items()),
        "bytes": newest_bytes(Path(asked["out"])),
        "versions": {name: version(name) for name in (*packages, *asked.get("packages", ()))},
        **(more or {}),
    }
    (Path(asked["out"]) / "answer.json").write_text(json.dumps(answer))


def newest_bytes(out: Path) -> int:
    """Size of the newest checkpoint under `saved`."""
    folders = sorted(
        (path for path in (out / "saved").iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
    )
    return sum(path.stat().st_size for path in folders[-1].rglob("*") if path.is_file())


def digest(parameters: Mapping[str, torch.Tensor]) -> str:
    """A name of the parameters' values."""
    found = hashlib.sha256()
    for name in sorted(parameters):
        value = parameters[name].detach().to(torch.float32).contiguous()
        found.update(name.encode())
        found.update(value.view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def sync(path: Path) -> None:
    """fsync of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
