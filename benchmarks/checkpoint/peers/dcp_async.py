"""torch.distributed.checkpoint's `async_save`, in two ways that its documentation shows.

`thread`: staged at once into memory, written by a thread. `process`: staged in the background into shared memory that
is used again, written by a process of its own; the loop waits for the staging before it changes weights. Files are
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


class AsyncSave:
    """One save at a time: a new one waits for the one before."""

    def __init__(self, out: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, by_process: bool) -> None:
        self._folder, self._model, self._optimizer = out / "saved", model, optimizer
        self._by_process = by_process
        self._group = dist.new_group(backend="gloo")
        self._stager = DefaultStager(StagingOptions(False, True, True, False)) if by_process else None
        self._upload: Future[Any] | None = None
        self._staging: Future[Any] | None = None
        self._durable: dict[int, float] = {}

    def save(self, step: int) -> None:
        self.wait()
        weights, moments = get_state_dict(self._model, self._optimizer)
        kind = AsyncCheckpointerType.PROCESS if self._by_process else AsyncCheckpointerType.THREAD
        begun = dcp.async_save(
            {"model": weights, "optimizer": moments},
            checkpoint_id=self._folder / f"step-{step}",
            process_group=self._group,
            async_checkpointer_type=kind,
            async_stager=self._stager,
        )
        self._staging = None if isinstance(begun, Future) else begun.staging_completion
        self._upload = begun if isinstance(begun, Future) else begun.upload_completion
        self._upload.add_done_callback(partial(self._note, step))

    def _note(self, step: int, upload: Future[Any]) -> None:
        if upload.exception() is None:
            self._durable[step] = time.time()

    def wait(self) -> None:
        """Until the save under way is over."""
        if self._upload is not None:
            self._upload.result()

    def hold_still(self) -> None:
        if self._staging is not None:
            self._staging.result()
            self._staging = None

    def finish(self) -> Mapping[int, float]:
        self.wait()
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
    loop.train(asked, ddp, adamw, AsyncSave(Path(asked["out"]), ddp, adamw, asked["by"] == "process"))
