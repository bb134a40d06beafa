"""A few steps under torch's profiler: a trace of each rank, with marks of what a step does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from trainer.config import RunConfig
from trainer.loop import Status
from trainer.optimizer_step import Beat
from trainer.phase_shares import MARK
from trainer.training_run import TrainingRun

WARM_UP_STEPS = 3
"""Not in the trace: the first steps fill caches and pools, and the profiler's own first one is slow."""

# What a step's beats begin: a beat of another name ends the part before.
_PARTS: Mapping[str, str] = {
    "data": "data",
    "forward": "forward",
    "backward": "backward",
    "collective": "optimizer",
}


def profile_config(config: RunConfig, out_dir: Path, steps: int) -> RunConfig:
    """The run as it is profiled: in a folder of its own, on the same dataset, from random weights, without stages.

    Nothing of the run itself is read or written.
    """
    length = {"max_steps": WARM_UP_STEPS + steps + 1, "max_tokens": None, "epochs": None}
    changes = {
        "out_dir": str(out_dir),
        "init_from": None,
        "callbacks": (),
        "data": config.data.model_copy(update={"dir": str(config.data_dir)}),
        "train": config.train.model_copy(update={**length, "stages": ()}),
        "checkpoint": config.checkpoint.model_copy(update={"dir": None}),
    }
    return config.model_copy(update=changes)


def trace_path(folder: Path, rank: int) -> Path:
    """The trace of a rank, as Perfetto and Chrome read it."""
    return folder / f"rank-{rank}.json.gz"


def profile_run(run: TrainingRun, steps: int) -> Status:
    """Train so many steps after a warm-up, and leave each rank's trace in OUT_DIR; saves and evaluates nothing.

    On a GPU each part of a step is waited for, so that its time is its own: such a step is slower than one in training.
    """
    folder, device = Path(run.config.out_dir), run.engine.device
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    marks = _Marks(run.beat, torch.cuda.synchronize if device.type == "cuda" else _no_wait)
    run.beat = marks
    with profile(
        activities=activities,
        schedule=schedule(wait=WARM_UP_STEPS - 1, warmup=1, active=steps, repeat=1),
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(trace_path(folder, run.rank))),
    ) as profiler:
        for _ in range(WARM_UP_STEPS + steps):
            batch = run.read_batch()
            marks.end()
            result = run.optimize(batch)
            marks.end()
            run.record(batch, result)
            profiler.step()
    dist.barrier()
    return Status.STOPPED


def _no_wait() -> None:
    """On a CPU nothing runs behind the process's back."""


class _Marks:
    """A beat that also marks, in the trace, what begins with it."""

    def __init__(self, beat: Beat, wait: Callable[[], Any]) -> None:
        self._beat = beat
        self._wait = wait
        self._open = contextlib.ExitStack()

    def __call__(self, step: int, phase: str) -> None:
        self.end()
        if phase in _PARTS:
            self._open.enter_context(record_function(MARK + _PARTS[phase]))
        self._beat(step, phase)

    def end(self) -> None:
        """End the part that is open."""
        self._wait()
        self._open.close()
