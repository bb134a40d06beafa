"""A checkpointer without DeepSpeed: its engine holds one rank's part of random parameters, which steps add to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from data_shards.loader import LoaderState
from tests.trainer.checkpoint_world import snapshots, state
from trainer import checkpointer
from trainer.checkpoint.fragments import KINDS
from trainer.checkpointer import Checkpointer
from trainer.place import Place
from trainer.settings import CheckpointSettings

DEADLINE_SECONDS = 60.0


class FakeEngine:
    """What a checkpointer asks of an engine."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        rank, world_size = dist.get_rank(), dist.get_world_size()
        self.part = snapshots(state(), world_size)[rank]

    def zero_optimization_stage(self) -> int:
        return 2

    def step(self) -> None:
        for fragment in self.part.fragments:
            for kind in KINDS:
                getattr(fragment, kind).add_(1.0)


class _NoMemory:
    """No snapshots in memory."""

    def __init__(self, *_: object) -> None:
        self.proposal = 0

    def newest_common(self, is_believed: object) -> None:
        return None

    def forget_after(self, step: int) -> None:
        pass


class Saving:
    """A rank with its checkpointer and the events that it told. A context: the process group must stand."""

    def __init__(self, out_dir: Path, attempt: int = 1, **settings: Any) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.engine = FakeEngine()
        self._patches = ExitStack()
        self._patches.enter_context(patch.object(checkpointer, "Snapshots", _NoMemory))
        self._patches.enter_context(patch.object(checkpointer, "snapshot", lambda engine: engine.part))
        checkpoint = CheckpointSettings(**{"interval": 10, **settings})
        config: Any = SimpleNamespace(seed=1, out_dir=str(out_dir), checkpoint=checkpoint)
        model: Any = SimpleNamespace(to_dict=lambda: {"activation_checkpointing": "none", "n_layer": 2})
        self.checkpointer = Checkpointer(
            config, "run-1", attempt, "data", model, "fp32", self.engine, None, (), 1, self.events.append
        )

    def __enter__(self) -> Saving:
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def save(self, step: int, wait: bool = False) -> None:
        self.checkpointer.save(Place(step, step * 64, LoaderState(consumed=step * 8)), wait=wait)

    def told(self, name: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    def poll_until(self, condition: Callable[[], Any]) -> None:
        """Step borders one after the other until the condition holds."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            self.checkpointer.poll()
