"""`train.micro_batch_size: auto`: as many sequences as the memory takes, and half of them after an out-of-memory.

What was chosen is kept in the run's folder, so that a run that goes on computes as before: the size of passes changes
no result but in the last digits, and where dropout is drawn. A rank that its GPU's memory does not suffice halves it
there and ends; the gang goes on from its snapshot with the new size, as after any failure.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from model.config import GPTConfig
from trainer.accelerators import usable_gpu_bytes
from trainer.batch import BatchPlan, plan_batch
from trainer.collectives import broadcast_from_first, gather_to_first
from trainer.config import RunConfig
from trainer.errors import SmallerMicroBatchError
from trainer.fitting import fitting_batch
from trainer.free_memory import free_memory_bytes
from trainer.plan_memory import PROCESS_BYTES, MemoryModel
from trainer.plan_sizes import model_sizes
from trainer.precision import resolve_here

logger = logging.getLogger(__name__)

FILE = "micro_batch.json"


def choose_batch(
    config: RunConfig, shape: GPTConfig, precision: str, device: torch.device, world_size: int, local_world_size: int
) -> BatchPlan:
    """The run's batch on so many ranks; all ranks call it together, before anything of the model is in memory."""
    train = config.train
    if train.micro_batch_size != "auto":
        return plan_batch(train.global_batch_size, train.micro_batch_size, world_size)
    free = gather_to_first(_free_bytes(device, local_world_size))
    rows = 0
    if free is not None:
        key = _key(config, precision, device.type, world_size)
        rows = _read(config).get(key, 0)
        if not rows:
            sizes = model_sizes(shape, train)
            model = MemoryModel(config, shape, sizes, precision, device.type, world_size)
            rows = fitting_batch(model, min(free)).micro_batch
            _write(config, key, rows)
    rows = broadcast_from_first(rows)
    return plan_batch(train.global_batch_size, "auto", world_size, rows)


@contextmanager
def stepping_down(config: RunConfig, batch: BatchPlan, device: torch.device) -> Iterator[None]:
    """A GPU's out-of-memory in the block halves the passes of the attempts that follow, where the size is `auto`.

    Raises:
        SmallerMicroBatchError: the size was halved; from torch.OutOfMemoryError, which is raised as it is where the run
            file gives the size, or a pass is of one sequence already.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        rows = batch.micro_batch
        if config.train.micro_batch_size != "auto" or rows == 1:
            raise
        precision = resolve_here(config.train.precision, device)
        _write(config, _key(config, precision, device.type, batch.world_size), rows // 2)
        raise SmallerMicroBatchError(
            f"out of memory with passes of {rows} sequences: the run goes on with {rows // 2} ({error})"
        ) from error


def _free_bytes(device: torch.device, local_world_size: int) -> int:
    if device.type == "cuda":
        return usable_gpu_bytes(torch.cuda.mem_get_info(device)[1])
    return free_memory_bytes() // local_world_size + PROCESS_BYTES  # the processes are there already


def _key(config: RunConfig, precision: str, device: str, world_size: int) -> str:
    """What a choice was made for: on a change of any of it, it is made anew."""
    train = config.train
    sizes = f"{world_size} ranks, {device}, {precision}, global batch {train.global_batch_size}"
    return f"{sizes}, stage {train.zero.stage}, offload {train.zero.offload}, {train.activation_checkpointing}"


def _read(config: RunConfig) -> dict[str, int]:
    path = Path(config.out_dir) / FILE
    if not path.exists():
        return {}
    chosen: dict[str, int] = json.loads(path.read_text())
    return chosen


def _write(config: RunConfig, key: str, rows: int) -> None:
    path = Path(config.out_dir) / FILE
    draft = path.with_name(f"{FILE}.{os.getpid()}")  # of its own: several ranks may be out of memory at once
    draft.write_text(json.dumps({**_read(config), key: rows}, indent=2))
    draft.replace(path)
    logger.info("passes of %d sequences, for %s", rows, key)
