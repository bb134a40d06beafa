"""torch.distributed.checkpoint's `async_save`, in three ways that it offers.

`thread`: staged at once into memory, written by a thread. `cached`: staged in the background into memory that is used
again, since the stager stays, and written by a thread. `process`: so staged into shared memory, and written by a
process of its own. Where staging goes on in the background, the loop waits for it before it changes weights. Files are
synced by its writer's default. Saves have a process group of their own, since the gradients' is gloo as well.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import loop
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_state_dict
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

STAGING = {
    "thread": None,
    "cached": StagingOptions(False, False, True, False),
    "process": StagingOptions(False, True, True, False),
}
"""Pinned memory, shared memory, staging in the background, copies that do not block; None is the library's own choice,
a new stager for each save."""


class AsyncSave:
    """One save at a time: a new one waits for the one before."""

    def __init__(self, out: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, by: str) -> None:
        self._folder, self._model, self._optimizer = out / "saved", model, optimizer
        self._kind = AsyncCheckpointerType.PROCESS if by == "process" else AsyncCheckpointerType.THREAD
        self._group = dist.new_group(backend="gloo")
        options = STAGING[by]
        self._stager = None if options is None else DefaultStager(options)
        self._upload: Future[Any] | None = None
        self._staging: Future[Any] | None = None
        self._durable: dict[int, float] = {}

    def save(self, step: int) -> None:
        self._wait()
        weights, moments = get_state_dict(self._model, self._optimizer)
        begun = dcp.async_save(
            {"model": weights, "optimizer": moments},
            checkpoint_id=self._folder / f"step-{step}",
            process_group=self._group,
            async_checkpointer_type=self._kind,
            async_stager=self._stager,
        )
        self._staging = None if isinstance(begun, Future) else begun.staging_completion
        self._upload = begun if isinstance(begun, Future) else begun.upload_completion
        self._upload.add_done_callback(partial(self._note, step))

    def _note(self, step: int, upload: Future[Any]) -> None:
        if upload.exception() is None:
            self._durable[step] = time.time()

    def _wait(self) -> None:
        """Until the save under way is over."""
        if self._upload is not None:
            self._upload.result()

    def hold_still(self) -> None:
        if self._staging is not None:
            self._staging.result()
            self._staging = None

    def finish(self) -> Mapping[int, float]:
        self._wait()
        if self._stager is not None:
            self._stager.close()
        return self._durable

    def load(self, step: int) -> Mapping[str, torch.Tensor]:
        state = {"model": {k: torch.zeros_like(v) for k, v in get_model_state_dict(self._model).items()}}
        dcp.load(state, checkpoint_id=self._folder / f"step-{step}", no_dist=True)
        return state["model"]


if __name__ == "__main__":
    asked = loop.options()
    loop.join()
    gpt = loop.build_model(asked)
    adamw = loop.build_optimizer(gpt)
    ddp = loop.wrapped(gpt)
    loop.train(asked, ddp, adamw, AsyncSave(Path(asked["out"]), ddp, adamw, asked["by"]))
