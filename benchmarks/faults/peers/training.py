"""What the peers' scripts of the fault benchmark share: data, model, loss, the step log, and their process numbers.

`announce` comes first and needs the standard library alone: a rank can be hit while it still imports torch.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

BETAS, WEIGHT_DECAY = (0.9, 0.95), 0.1


def options() -> dict[str, Any]:
    """What the arm was asked to do: the JSON of its last argument."""
    return dict(json.loads(sys.argv[-1]))


def announce(asked: Mapping[str, Any], rank: int) -> None:
    """Tell which process this rank is, for whoever is to hit it."""
    folder = Path(asked["out"]) / "ranks"
    folder.mkdir(exist_ok=True)
    draft = folder / f"{rank}.{os.getpid()}"
    draft.write_text(str(os.getpid()))
    draft.replace(folder / str(rank))


class StepLog:
    """Rank 0's log: a line of step, time and process for each completed optimizer step."""

    def __init__(self, asked: Mapping[str, Any], rank: int) -> None:
        path = Path(asked["out"]) / "steps.log"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if rank == 0 else None

    def write(self, step: int) -> None:
        """Step `step` is completed."""
        if self._fd is not None:
            os.write(self._fd, f"{step} {time.time():.6f} {os.getpid()}\n".encode())


class Tokens:
    """Training sequences out of mapped arrays. A file that cannot be read is left out with a warning."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        import numpy as np

        self._length: int = asked["seq_len"]
        self._shards = []
        for path in sorted(Path(asked["arrays"]).glob("*.npy")):
            try:
                self._shards.append(np.load(path, mmap_mode="r"))
            except (ValueError, OSError) as error:
                logger.warning("%s is left out: %s", path, error)
        numbers = [
            (index, start)
            for index, shard in enumerate(self._shards)
            for start in range(0, len(shard) - self._length, self._length)
        ]
        self._order = np.random.default_rng(1).permutation(np.array(numbers))

    def rows(self, first: int, count: int) -> torch.Tensor:
        """Sequences number `first` and on, int64 [count, T+1]; after the last comes the first."""
        import numpy as np
        import torch

        found = [self._order[number % len(self._order)] for number in range(first, first + count)]
        cut = [self._shards[index][start : start + self._length + 1] for index, start in found]
        return torch.from_numpy(np.stack(cut).astype(np.int64))

    def own_rows(self, asked: Mapping[str, Any], step: int, rank: int, world: int) -> torch.Tensor:
        """A rank's rows of step `step`, from 1 on."""
        count = asked["batch"] // world
        return self.rows((step - 1) * asked["batch"] + rank * count, count)


def build_model(asked: Mapping[str, Any]) -> Any:
    """Headrace's model; the same weights on every rank."""
    import torch

    from model.config import GPTConfig
    from model.gpt import GPT

    torch.manual_seed(1)
    return GPT(GPTConfig.from_dict(asked["model"]))


def build_optimizer(asked: Mapping[str, Any], model: Any) -> torch.optim.AdamW:
    """Headrace's default optimizer and what it decays."""
    import torch

    decayed = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    rest = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=asked["lr"], betas=BETAS, fused=True)


def loss_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the rows."""
    loss: torch.Tensor = model(tokens[:, :-1], tokens[:, 1:])
    return loss / tokens[:, 1:].numel()
