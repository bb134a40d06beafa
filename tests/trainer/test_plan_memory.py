"""Planned memory of ranks against live tensors, counted while real engines take steps."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.trainer.plan_cases import Case, measured, memory_model, planned
from trainer.plan_memory import PROCESS_BYTES, Setting
from trainer.plan_sizes import model_sizes
from trainer.plan_states import Sizes, formula_bytes

TOLERANCE = 0.05
STAGES = (0, 1, 2, 3)
FEW = [
    *(Case("tiny", stage, 1) for stage in (1, 3)),
    *(Case("tiny", stage, 2) for stage in STAGES),
    *(Case("tiny", stage, 2, "bf16", accumulation=1) for stage in (1, 2, 3)),
    Case("small", 3, 2, checkpointing="full"),
]
MANY = [
    *(Case(shape, stage, world) for shape, world, stage in product(("tiny", "small", "middle"), (1, 2, 4), STAGES)),
    *(Case("tiny", stage, world, accumulation=1) for stage, world in product(STAGES, (1, 2))),
    *(Case("tiny", stage, world, "bf16") for stage, world in product(STAGES, (1, 2))),
    *(Case("small", stage, 2, checkpointing=mode) for stage, mode in product(STAGES, ("full", "selective", "every_2"))),
]
MILLION = Sizes(10**6, 10**6, 0, 10**5, 10**5, (10**5,) * 10)


def check(folder: Path, cases: list[Case], deadline_seconds: float) -> None:
    for case, found in measured(folder, cases, deadline_seconds).items():
        plan = planned(case)
        assert sum(plan.states.values()) == pytest.approx(found["rest"], rel=TOLERANCE), case
        assert plan.peak == pytest.approx(found["peak"], rel=TOLERANCE), case


@pytest.mark.slow
def test_memory_of_few_ranks_is_as_counted(tmp_path: Path) -> None:
    check(tmp_path, FEW, 110)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(8))
def test_memory_of_all_sizes_stages_and_worlds_is_as_counted(tmp_path: Path, part: int) -> None:
    check(tmp_path, MANY[part::8], 1100)


@pytest.mark.parametrize(
    ("stage", "world_size", "offload", "bytes_per_parameter"),
    [
        (0, 64, "none", 16.0),
        (1, 64, "none", 4 + 12 / 64),
        (2, 64, "none", 2 + 14 / 64),
        (3, 64, "none", 16 / 64),
        (1, 64, "optimizer", 4.0),
        (2, 64, "optimizer", 2.0),
        (3, 64, "all", 0.0),
    ],
)
def test_formula_is_that_of_the_paper(stage: int, world_size: int, offload: str, bytes_per_parameter: float) -> None:
    found = formula_bytes(MILLION, stage, world_size, "bf16", offload)  # type: ignore[arg-type]
    assert found == pytest.approx(bytes_per_parameter * 10**6, rel=1e-3)


def test_offloaded_optimizer_is_in_the_hosts_memory() -> None:
    model = memory_model(Case("tiny", 2, 2, "bf16"), "cuda")
    here, away = (model.plan(Setting(2, 2, "none", offload)) for offload in ("none", "optimizer"))  # type: ignore[arg-type]
    moved = here.states["masters"] + here.states["moments"]
    assert sum(here.states.values()) - sum(away.states.values()) == moved
    assert (here.host, away.host) == (0, moved + moved // 3)  # gradients go there too


def test_needed_on_a_cpu_counts_the_process_and_the_copy_of_a_save() -> None:
    plan = memory_model(Case("tiny", 2, 2)).plan(Setting(2, 2, "none"))
    assert plan.needed("cpu") == plan.peak + plan.arena + PROCESS_BYTES
    assert plan.needed("cuda") == plan.peak


def test_snapshots_and_arena_hold_masters_and_moments_of_a_rank() -> None:
    model = memory_model(Case("tiny", 2, 2))
    plan = model.plan(Setting(2, 2, "none"))
    assert plan.arena == 12 * -(-model.sizes.trained // 2)
    assert 2 * plan.arena < plan.snapshots < 2 * plan.arena + (3 << 20)  # two slots, each with a note


def test_frozen_parameters_have_no_states() -> None:
    case = Case("tiny", 1, 2)
    model = memory_model(case)
    frozen = model.config.train.model_copy(update={"freeze": ("h.*",)})
    sizes = model_sizes(case.config, frozen)
    assert sizes.total == model.sizes.total
    assert sizes.trained == model.sizes.total - 4 * model.sizes.block
    assert sizes.block == 0
