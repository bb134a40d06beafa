"""Plans of faults: what a file may say, and that random ones can be survived."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.chaos.plan import (
    CHECKPOINT_KINDS,
    INNER_KINDS,
    NODE_KINDS,
    NUMBER_KINDS,
    SAVE_PHASES,
    Fault,
    Plan,
    check_plan,
    cpus_of_node,
    inner_faults,
    load_plan,
    random_plan,
)
from cluster.errors import ClusterError
from trainer.errors import TrainError

ARGUMENTS = {
    "seed": st.integers(0, 2**32),
    "faults": st.integers(1, 40),
    "steps": st.integers(100, 2000),
    "workers": st.integers(1, 8),
    "checkpoint_steps": st.integers(1, 60),
    "nodes": st.integers(1, 6),
}


@given(**ARGUMENTS)
def test_random_plan_of_the_same_seed_is_the_same_and_another_seed_gives_another(seed: int, **place: int) -> None:
    plan = random_plan(seed, place.pop("faults"), **place)
    assert plan == random_plan(seed, len(plan.faults), **place)
    others = {random_plan(seed + other, len(plan.faults), **place).dump() for other in range(1, 20)}
    assert others != {plan.dump()}


@given(**ARGUMENTS)
def test_random_plan_is_bounded_by_the_run_and_spread_over_it(seed: int, faults: int, steps: int, **place: int) -> None:
    plan = random_plan(seed, faults, steps=steps, **place)
    at = [fault.at_step for fault in plan.faults]
    assert len(at) == faults
    assert all(step is not None and 2 <= step < steps - 2 for step in at)
    assert at == sorted(at, key=lambda step: step or 0)
    width = (steps - 4) // faults + 1
    for index, step in enumerate(at):
        # The second of a pair lies in the first one's part.
        assert step is not None and abs(step - (2 + (steps - 4) * index / faults)) <= 2 * width
    check_plan(plan, steps, place["workers"])


@given(**ARGUMENTS)
def test_random_plan_can_be_survived(seed: int, faults: int, checkpoint_steps: int, workers: int, **place: int) -> None:
    plan = random_plan(seed, faults, checkpoint_steps=checkpoint_steps, workers=workers, **place)
    assert not any(fault.kind in NUMBER_KINDS for fault in plan.faults)
    assert all(fault.seconds is not None for fault in plan.faults if fault.kind in NODE_KINDS)
    assert all(fault.seconds is not None for fault in plan.faults if fault.kind == "kill_mlflow")
    damages = [index for index, fault in enumerate(plan.faults) if fault.kind in CHECKPOINT_KINDS]
    for index in damages:
        following = plan.faults[index + 1]
        assert (following.kind, following.at_step) == ("kill_driver", plan.faults[index].at_step)
    steps = [plan.faults[index].at_step or 0 for index in damages]
    assert all(step > 2 * checkpoint_steps for step in steps)
    assert all(later - earlier >= 3 * checkpoint_steps for earlier, later in pairwise(steps))
    # While a node is away, the others hold all workers.
    assert plan.cpus_per_node * max(1, plan.nodes - 1) >= workers
    for fault in plan.faults:
        if fault.phase in SAVE_PHASES:
            assert fault.at_step is not None and fault.at_step % checkpoint_steps == 0


@given(**ARGUMENTS)
def test_plan_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, seed: int, **place: int) -> None:
    plan = random_plan(seed, place.pop("faults"), **place)
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(plan.dump())
    assert load_plan(path) == plan


@given(workers=st.integers(1, 9), nodes=st.integers(2, 6), cpus_per_worker=st.integers(1, 4))
def test_nodes_have_room_for_all_workers_while_one_is_away(workers: int, nodes: int, cpus_per_worker: int) -> None:
    cpus = cpus_of_node(workers, nodes, cpus_per_worker)
    assert (nodes - 1) * (cpus // cpus_per_worker) >= workers
    assert (nodes - 1) * (cpus // cpus_per_worker - 1) < workers


def test_random_plan_of_many_seeds_holds_every_kind() -> None:
    place = {"steps": 400, "workers": 2, "checkpoint_steps": 10}
    kinds = {fault.kind for seed in range(20) for fault in random_plan(seed, 20, **place).faults}
    assert len(kinds) == 13


def test_random_plan_of_a_short_run_is_refused_with_what_to_do() -> None:
    with pytest.raises(ClusterError, match=r"--faults 20: a run of 30 steps has room for 1 to 13 faults.*max_steps=N"):
        random_plan(1, 20, steps=30, workers=2, checkpoint_steps=5)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "kill_rank", "at_step": 3}, "kind kill_rank must have a rank"),
        ({"kind": "kill_rank", "rank": 0}, "must have at_step or after_seconds"),
        ({"kind": "kill_rank", "rank": 0, "at_step": 3, "after_seconds": 1}, "and not both"),
        ({"kind": "kill_rank", "rank": 0, "at_step": 3, "phase": "eval"}, "kind kill_rank has no phase"),
        ({"kind": "kill_node", "at_step": 3}, "must have rank or node"),
        ({"kind": "kill_node", "rank": 1, "node": 1, "at_step": 3}, "must have rank or node, and not both"),
        ({"kind": "kill_driver", "at_step": 3, "rank": 0}, "has no rank; its fields are at_step, after_seconds"),
        ({"kind": "kill", "rank": 0, "after_seconds": 3}, "happens within a rank and must have at_step"),
        ({"kind": "slow", "rank": 0, "at_step": 3}, "kind slow must have seconds"),
        ({"kind": "nan_loss", "rank": 0, "at_step": 3, "phase": "save"}, "in phase forward alone"),
        ({"kind": "flip_checkpoint", "at_step": 3, "seconds": 1}, "has no seconds"),
        ({"kind": "kill_rnak", "rank": 0, "at_step": 3}, "Input should be"),
    ],
)
def test_fault_that_lacks_or_exceeds_its_kinds_fields_is_refused(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Fault.model_validate(fault)


def test_plan_file_refused_names_file_and_place(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    with pytest.raises(ClusterError, match=r"plan.yaml: must be a YAML file that can be read"):
        load_plan(path)
    path.write_text("faults: [{kind: kill_rank, at_step: 3}]")
    with pytest.raises(TrainError, match=r"plan.yaml: faults.0: kind kill_rank must have a rank"):
        load_plan(path)
    path.write_text("faults: []")
    with pytest.raises(TrainError, match=r"plan.yaml: faults: must have at least one entry"):
        load_plan(path)
    path.write_text("- kill_rank")
    with pytest.raises(ClusterError, match="must be a mapping with faults, found a list"):
        load_plan(path)


def test_plan_beyond_the_run_is_refused() -> None:
    plan = Plan(faults=(Fault(kind="kill_rank", rank=1, at_step=60),))
    with pytest.raises(ClusterError, match=r"faults.0.at_step: must be below the run's last step, which is 60"):
        check_plan(plan, 60, 2)
    with pytest.raises(ClusterError, match=r"faults.0.rank: must be below the number of workers, 1; found 1"):
        check_plan(plan, 61, 1)
    check_plan(plan, 61, 2)


def test_fault_within_a_rank_is_handed_on_with_its_step_and_phase() -> None:
    faults = (
        Fault(kind="kill_rank", rank=1, at_step=5),
        Fault(kind="kill", rank=1, at_step=7, phase="before-rename"),
        Fault(kind="slow", rank=0, at_step=9, seconds=0.1, steps=3),
    )
    handed = [fault.for_rank() for fault in inner_faults(faults).values()]
    assert handed == [
        {"kind": "kill", "rank": 1, "step": 7, "phase": "before-rename"},
        {"kind": "slow", "rank": 0, "step": 9, "phase": "forward", "seconds": 0.1, "steps": 3},
    ]
    assert all(fault["kind"] in INNER_KINDS for fault in handed)
