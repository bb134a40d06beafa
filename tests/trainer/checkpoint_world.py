"""Checkpoints without an engine: fake ranks that hold parts of random parameters, saved one after the other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.fragments import Fragment, Snapshot
from trainer.checkpoint.manifest import Header, Manifest
from trainer.checkpoint.save import SaveResult, SaveTask, save_checkpoint
from trainer.checkpoint.store import Choice, folder_name, read_manifest

SHAPES = {"embed.weight": (7, 5), "norm.bias": (3,), "scale": ()}
FROZEN = {"frozen.weight": torch.arange(6, dtype=torch.float32).view(2, 3)}
BUFFERS = {"mask": torch.tensor([True, False, True])}


def header(step: int = 200, attempt: int = 1, world_size: int = 2) -> Header:
    return Header(
        run_id="run-1",
        attempt=attempt,
        step=step,
        tokens=step * 64,
        world_size=world_size,
        zero_stage=2,
        precision="fp32",
        loader={"version": 1, "consumed": step * 8},
        settings={"seed": 1337, "model": {"n_layer": 2}},
        rng="none",
    )


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Master, exp_avg and exp_avg_sq of every parameter, one after the other: name -> [3, elements]."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(3, math.prod(shape), generator=generator) for name, shape in SHAPES.items()}


def snapshots(values: dict[str, torch.Tensor], world_size: int) -> list[Snapshot]:
    """One snapshot a rank; every parameter is cut into `world_size` parts, some of them empty."""
    return [
        Snapshot(
            shapes=SHAPES,
            fragments=[f for name, value in values.items() if (f := _part(name, value, rank, world_size)).length],
            frozen=FROZEN,
            buffers=BUFFERS,
            rank_tensors={"torch": torch.tensor([rank, 255], dtype=torch.uint8)},
            loss_scale={"cur_scale": 65536.0, "cur_iter": 3},
        )
        for rank in range(world_size)
    ]


def _part(name: str, value: torch.Tensor, rank: int, world_size: int) -> Fragment:
    size = math.ceil(value.shape[1] / world_size)
    part = value[:, rank * size : (rank + 1) * size]
    return Fragment(name, min(rank * size, value.shape[1]), part[0], part[1], part[2], step=17.0)


def task(
    out_dir: Path, rank: int = 0, step: int = 200, attempt: int = 1, world_size: int = 2, seed: int = 0, **more: Any
) -> SaveTask:
    """One fake rank's part of a save."""
    snapshot = snapshots(state(seed), world_size)[rank]
    return SaveTask(out_dir, header(step, attempt, world_size), snapshot, rank, **more)


def save(
    out_dir: Path, step: int = 200, attempt: int = 1, world_size: int = 2, seed: int = 0, **more: Any
) -> SaveResult:
    """A whole checkpoint: the other ranks first, then rank 0, which finds their marks."""
    for rank in reversed(range(world_size)):
        result = save_checkpoint(task(out_dir, rank, step, attempt, world_size, seed, **more))
    return result


def path_of(result: SaveResult | Choice) -> Path:
    return Path(result.address)


def checkpoint_folder(out_dir: Path, step: int, attempt: int) -> Path:
    return out_dir / "checkpoints" / folder_name(step, attempt)


def whole(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value[0].view(SHAPES[name]) for name, value in values.items()}


def manifest_of(result: SaveResult) -> Manifest:
    return read_manifest(result.address)
