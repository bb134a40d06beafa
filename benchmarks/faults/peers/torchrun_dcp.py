"""DDP under torchrun with torch.distributed.checkpoint: `async_save` every so many steps, resume from the newest good.

As a careful user writes it: saves on a process group of their own, one at a time, three kept, staged in the background
into memory that is used again; a checkpoint counts once
its metadata is there; one that cannot be loaded is passed over; collectives have a time-out, so that a peer that
stands still ends the attempt.
"""

from __future__ import annotations

import os

import training

asked = training.options()
rank = int(os.environ["RANK"])
training.announce(asked, rank)

import logging  # noqa: E402
import shutil  # noqa: E402
from concurrent.futures import Future  # noqa: E402
from datetime import timedelta  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint.api import CheckpointException  # noqa: E402
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions  # noqa: E402
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

logger = logging.getLogger(__name__)

KEPT = 3
CHECKPOINTS = Path(asked["out"]) / "checkpoints"
TIMEOUT = timedelta(seconds=asked["timeout_seconds"])


class Checkpoints:
    """Saves and loads of one rank."""

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        # Neither pinned nor shared memory, in the background, no copies that do not block.
        self._stager = DefaultStager(StagingOptions(False, False, True, False))
        self._staging: Future[Any] | None = None
        self._upload: Future[Any] | None = None

    def save(self, step: int) -> None:
        """Begin the save of a step, once the one before is over; then old ones go."""
        if self._upload is not None:
            self._upload.result()
            if rank == 0:
                for old in complete()[:-KEPT]:
                    shutil.rmtree(folder(old))
        begun = dcp.async_save(
            {**self._state(), "step": torch.tensor(step)},
            checkpoint_id=folder(step),
            process_group=self._group,
            async_stager=self._stager,
        )
        self._staging, self._upload = begun.staging_completion, begun.upload_completion

    def hold_still(self) -> None:
        """Wait until what is saved was copied, before it changes."""
        if self._staging is not None:
            self._staging.result()
            self._staging = None

    def load(self) -> int:
        """The step that training goes on after; 0 where there is no checkpoint that can be loaded."""
        found = [complete()]
        dist.broadcast_object_list(found)
        for step in reversed(found[0]):
            state = {**self._state(), "step": torch.tensor(0)}
            try:
                dcp.load(state, checkpoint_id=folder(step))
            except CheckpointException as error:
                logger.warning("step %d cannot be loaded, so the one before: %s", step, error)
                if rank == 0:
                    shutil.rmtree(folder(step))
                continue
            set_state_dict(
                self._model, self._optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
            )
            return int(state["step"])
        return 0

    def _state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._model, self._optimizer)
        return {"model": model, "optimizer": optimizer}


def folder(step: int) -> Path:
    """Where a step's checkpoint lies."""
    return CHECKPOINTS / f"step-{step:08d}"


def complete() -> list[int]:
    """The steps whose checkpoints have their metadata, which comes last; rising."""
    return sorted(int(path.parent.name.removeprefix("step-")) for path in CHECKPOINTS.glob("step-*/.metadata"))


def join() -> None:
    """Meet the other ranks under keys of this attempt: the agent's store still has the addresses of the one before, and
    a rank that reads them fails, over and over where ranks start apart."""
    world, port = int(os.environ["WORLD_SIZE"]), int(os.environ["MASTER_PORT"])
    agent = dist.TCPStore(os.environ["MASTER_ADDR"], port, world, is_master=False, timeout=TIMEOUT)
    store = dist.PrefixStore(f"attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}", agent)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=TIMEOUT)


def main() -> None:
    """Train until somebody ends it."""
    join()
    world, tokens, log = dist.get_world_size(), training.Tokens(asked), training.StepLog(asked, rank)
    gpt = training.build_model(asked)
    model, optimizer = DistributedDataParallel(gpt), training.build_optimizer(asked, gpt)
    checkpoints = Checkpoints(model, optimizer)
    step = checkpoints.load()
    while True:
        step += 1
        training.loss_of(model, tokens.own_rows(asked, step, rank, world)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        checkpoints.hold_still()
        optimizer.step()
        optimizer.zero_grad()
        log.write(step)
        if step % asked["save_every"] == 0:
            checkpoints.save(step)


if __name__ == "__main__":
    main()
