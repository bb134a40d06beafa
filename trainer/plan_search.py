"""Which settings fit the memory, those that cost the least speed first. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from trainer.plan_memory import Setting
from trainer.plan_states import Offload
from trainer.plan_time import recomputed_share

MODES = ("none", "selective", "every_2", "full", "full_cpu")
"""Activation checkpointing, as the search tries it."""

# Costs order the settings and are no forecast. A pass of so many tokens and half as many: a tenth slower below, nothing
# above. Stage 3 sends half as much again (Rajbhandari et al. 2020, section 7.2); offload waits for the host's bus.
_TOKENS_OF_A_FULL_PASS = 8192
_HALVED = 0.1
_STAGE_COST = {0: 0.0, 1: 0.0, 2: 0.01, 3: 0.1}
_OFFLOAD_COST: dict[Offload, float] = {"none": 0.0, "optimizer": 0.3, "all": 0.8}
_SELECTIVE_COST, _HOST_COST = 0.03, 0.05


@dataclass(frozen=True)
class Found:
    """A setting that fits, what it needs, and how much slower it is held to be than the fastest (0: as fast)."""

    setting: Setting
    needed_bytes: int
    cost: float


def cost(setting: Setting, seq_len: int) -> float:
    """How much slower a step is held to be than one of full passes at stage 0 without checkpointing."""
    recomputed = recomputed_share(setting.checkpointing) / 3
    if setting.checkpointing == "selective":
        recomputed = _SELECTIVE_COST
    if setting.checkpointing == "full_cpu":
        recomputed += _HOST_COST
    halvings, tokens = 0, setting.micro_batch * seq_len
    while tokens < _TOKENS_OF_A_FULL_PASS:
        halvings, tokens = halvings + 1, tokens * 2
    return recomputed + _STAGE_COST[setting.stage] + _OFFLOAD_COST[setting.offload] + _HALVED * halvings


def nearest_settings(
    needed: Callable[[Setting], int],
    available_bytes: int,
    share: int,
    seq_len: int,
    offloads: Sequence[Offload] = ("none",),
    most: int = 3,
) -> list[Found]:
    """The settings that fit, of least cost first, for each of which the micro-batch is the largest that does.

    needed: bytes that a setting needs; share: sequences of a rank in a step; offloads: those to try.
    """
    found = []
    for stage, mode, offload in product((0, 1, 2, 3), MODES, offloads):
        if offload == "all" and stage < 3:
            continue

        def fits(rows: int, stage: int = stage, mode: str = mode, offload: Offload = offload) -> bool:
            return needed(Setting(stage, rows, mode, offload)) <= available_bytes

        rows = largest_that_fits(fits, share)
        if rows:
            setting = Setting(stage, rows, mode, offload)
            found.append(Found(setting, needed(setting), cost(setting, seq_len)))
    return sorted(found, key=lambda one: (one.cost, one.needed_bytes))[:most]


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest number of rows up to `most` for which `fits`, which holds for all that are fewer; 0 if none does.

    Only `most` is tried by itself: a step of a single pass keeps no gradients of others, and may need less.
    """
    if most and fits(most):
        return most
    low, high = 0, max(most - 1, 0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
