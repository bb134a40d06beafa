"""What a run will take, before anything runs: parameters, tokens, memory, time and checkpoints. Pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.batch import BatchPlan
from trainer.plan_memory import MemoryModel, MemoryPlan, Setting
from trainer.plan_search import Found, nearest_settings
from trainer.plan_states import STATES_BYTES, Offload
from trainer.plan_time import (
    DEVICE_HOURS_BETWEEN_FAILURES,
    TimePlan,
    daly_seconds,
    time_plan,
    young_seconds,
)

STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Hardware:
    """What a run is planned for.

    name: as people call it; memory_bytes: that a rank may take; flops_per_second: peak of its matrix products;
    is_measured: whether that was measured here; utilisation: share of it that is assumed; disk_bytes_per_second: of all
    ranks' checkpoints together; seconds_between_failures: of the whole run.
    """

    name: str
    device: str
    memory_bytes: int
    flops_per_second: float
    is_measured: bool
    utilisation: float
    disk_bytes_per_second: float
    seconds_between_failures: float


@dataclass(frozen=True)
class StageMemory:
    """A rank's bytes at a ZeRO stage, with an offload: by the formula, at rest, and at the highest moment."""

    stage: int
    offload: Offload
    formula: int
    rest: int
    peak: int
    fits: bool


@dataclass(frozen=True)
class CheckpointPlan:
    """Bytes of a checkpoint, seconds that it takes, and the intervals that lose the least time."""

    bytes: int
    seconds: float
    young_seconds: float
    daly_seconds: float


@dataclass(frozen=True)
class RunPlan:
    """The whole plan."""

    parameters: int
    trained_parameters: int
    vocab_size: int
    steps: int
    tokens: int
    batch: BatchPlan
    setting: Setting
    precision: str
    memory: MemoryPlan
    hardware: Hardware
    needed_bytes: int
    fits: bool
    stages: tuple[StageMemory, ...]
    nearest: tuple[Found, ...]
    time: TimePlan
    checkpoint: CheckpointPlan


def mean_seconds_between_failures(device_hours: float | None, world_size: int) -> float:
    """Of a run on so many devices, each of which fails once in so many hours (None: as published of GPUs)."""
    return 3600 * (device_hours or DEVICE_HOURS_BETWEEN_FAILURES) / world_size


def plan_run(
    model: MemoryModel,
    setting: Setting,
    batch: BatchPlan,
    hardware: Hardware,
    steps: int,
    offloads: Sequence[Offload] = ("none",),
) -> RunPlan:
    """The plan of a run with its settings on its hardware. offloads: those that a run file may ask for.

    Raises:
        TrainError: `train.deepspeed` sets what Headrace owns.
    """
    memory = model.plan(setting)
    needed, available, seq_len = memory.needed(model.device), hardware.memory_bytes, model.shape.max_seq_len
    tokens_per_step = batch.global_batch * seq_len
    shape = dataclasses.replace(model.shape, activation_checkpointing=setting.checkpointing)
    speed = hardware.flops_per_second, hardware.utilisation

    def needed_by(other: Setting) -> int:
        return model.plan(other).needed(model.device)

    return RunPlan(
        parameters=model.sizes.total,
        trained_parameters=model.sizes.trained,
        vocab_size=model.shape.real_vocab_size,
        steps=steps,
        tokens=steps * tokens_per_step,
        batch=batch,
        setting=setting,
        precision=model.precision,
        memory=memory,
        hardware=hardware,
        needed_bytes=needed,
        fits=needed <= available,
        stages=_stages(model, setting, available),
        nearest=tuple(nearest_settings(needed_by, available, model.share(), seq_len, offloads)),
        time=time_plan(shape, steps, tokens_per_step, batch.world_size, *speed),
        checkpoint=_checkpoint(model, hardware),
    )


def _stages(model: MemoryModel, setting: Setting, available: int) -> tuple[StageMemory, ...]:
    """Every stage with the run's other settings, and what offload would leave on the device."""
    cases: list[tuple[int, Offload]] = [(stage, "none") for stage in STAGES]
    cases += [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "all")]
    found = []
    for stage, offload in cases:
        plan = model.plan(dataclasses.replace(setting, stage=stage, offload=offload))
        fits = plan.needed(model.device) <= available
        found.append(StageMemory(stage, offload, plan.formula, sum(plan.states.values()), plan.peak, fits))
    return tuple(found)


def _checkpoint(model: MemoryModel, hardware: Hardware) -> CheckpointPlan:
    frozen = model.sizes.total - model.sizes.trained
    size = STATES_BYTES * model.sizes.trained + 4 * frozen
    seconds = size / hardware.disk_bytes_per_second
    apart = hardware.seconds_between_failures
    return CheckpointPlan(size, seconds, young_seconds(seconds, apart), daly_seconds(seconds, apart))


def to_dict(plan: RunPlan) -> dict[str, Any]:
    """Plain values, fit for JSON; sizes in bytes."""
    memory = {**dataclasses.asdict(plan.memory), "peak": plan.memory.peak, "peak_moment": plan.memory.peak_moment}
    return {**dataclasses.asdict(plan), "memory": memory}
