"""The tutorial's way: rank 0 writes model and optimizer with `torch.save`; here with fsync and a rename."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import loop
import torch
import torch.distributed as dist


class TorchSave:
    """`torch.save`, then fsync of the file, rename, fsync of the folder."""

    def __init__(self, out: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._folder, self._model, self._optimizer = out / "saved", model, optimizer
        self._folder.mkdir(exist_ok=True)
        self._durable: dict[int, float] = {}

    def save(self, step: int) -> None:
        if dist.get_rank() > 0:
            return
        folder = self._folder / f"step-{step}"
        folder.mkdir()
        draft = folder / "state.tmp"
        state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict(), "step": step}
        with draft.open("wb") as file:
            torch.save(state, file)
        loop.sync(draft)
        draft.rename(folder / "state.pt")
        loop.sync(folder)
        self._durable[step] = time.time()

    def hold_still(self) -> None:
        """Nothing is under way."""

    def finish(self) -> Mapping[int, float]:
        return self._durable

    def load(self, step: int) -> Mapping[str, torch.Tensor]:
        state: dict[str, Any] = torch.load(self._folder / f"step-{step}" / "state.pt", weights_only=True)
        return dict(state["model"])


if __name__ == "__main__":
    asked = loop.options()
    loop.join()
    gpt = loop.build_model(asked)
    adamw = loop.build_optimizer(gpt)
    loop.train(asked, loop.wrapped(gpt), adamw, TorchSave(Path(asked["out"]), gpt, adamw))
