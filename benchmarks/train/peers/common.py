"""What the training arms share: Headrace's model with the given weights, the same rows, rates and optimizer.

They run in the peers' environment: torch, this tree's `model` package, and the standard library.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.train.stamps import Stamps
from model.config import GPTConfig
from model.gpt import GPT

RANK, WORLD_SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class Task:
    """What an arm is asked to do: the JSON of its last argument.

    rates: the learning rate of each step. tokens: a file of uint16 [steps, sequences, T + 1].
    """

    model: dict[str, Any]
    weights: str
    tokens: str
    rates: list[float]
    optimizer: dict[str, Any]
    grad_clip: float
    out: str
    root: int
    marks: list[int]
    deepspeed: dict[str, Any] | None = None
    compile: bool = False
    address: str | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.rates)

    def stamps(self) -> Stamps:
        """Of this rank."""
        return Stamps(Path(self.out) / f"rank-{RANK}.json", self.root, self.marks)


def asked() -> Task:
    """The arm's task; from here on one thread computes."""
    torch.set_num_threads(1)
    return Task(**json.loads(sys.argv[-1]))


def build_model(task: Task) -> GPT:
    """Headrace's model with the given weights, without initialising it first."""
    with torch.device("meta"):
        model = GPT(GPTConfig.from_dict(task.model))
    model.load_state_dict(torch.load(task.weights, weights_only=True), assign=True)
    return model.train()


def build_optimizer(model: nn.Module, task: Task, rate: float | None = None) -> torch.optim.AdamW:
    """AdamW as Headrace has it: fused, decay on matrices alone."""
    decay = task.optimizer["weight_decay"]
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = tuple(task.optimizer["betas"])
    first = task.rates[0] if rate is None else rate
    return torch.optim.AdamW(groups, lr=first, betas=betas, eps=task.optimizer["eps"], fused=True)


def set_rate(optimizer: Any, rate: float) -> None:
    """The rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def rate_schedule(task: Task, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    """The same rates for trainers that ask for a scheduler; the optimizer's own rate must be 1."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: task.rates[min(step, task.steps - 1)])


class Blocks(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """A rank's rows of each step off a memory map: tokens and labels, int64 [B, T]. Row i goes to rank i mod ranks."""

    def __init__(self, task: Task) -> None:
        self._blocks = np.load(task.tokens, mmap_mode="r")
        self._steps = task.steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(self._blocks[step, RANK::WORLD_SIZE].astype(np.int64))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[step] for step in range(self._steps))


def mean_loss(model: Any, tokens_bt: Tensor, labels_bt: Tensor) -> Tensor:
    """The model gives a sum."""
    loss: Tensor = model(tokens_bt, labels_bt) / labels_bt.numel()
    return loss


def join() -> None:
    """Meet the other ranks over the loopback, by the variables that torchrun sets."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo")


def plain_loop(model: Any, parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer, task: Task) -> None:
    """The loop of PyTorch's own tutorials: forward, backward, clip, step."""
    parameters, stamps = list(parameters), task.stamps()
    for rate, (tokens_bt, labels_bt) in zip(task.rates, Blocks(task), strict=True):
        set_rate(optimizer, rate)
        loss = mean_loss(model, tokens_bt, labels_bt)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, task.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        stamps.step(loss.item())
