"""An arm that fails is noted with its reason; what is a fault of the benchmark itself is not."""

from __future__ import annotations

import copy
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.checkpoint import measure
from benchmarks.checkpoint import plan as checkpoint_plan
from benchmarks.faults import kills, plan
from benchmarks.harness.failed import Failed, all_failed, reason_of, recorded, told


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no step"), subprocess.TimeoutExpired("no step", 1.0), AssertionError("no step"), OSError("no step")],
)
def test_recorded_notes_each_failure_of_an_arm_and_goes_on(error: Exception) -> None:
    failed: Failed = {}
    for _ in range(2):
        with recorded(failed, "an arm"):
            raise error
    with recorded(failed, "another"):
        pass
    assert list(failed) == ["an arm"]
    assert len(failed["an arm"]) == 2
    assert "no step" in failed["an arm"][0]


def test_recorded_lets_errors_of_the_program_and_its_end_pass() -> None:
    failed: Failed = {}
    for error in (KeyError("figure"), SystemExit(143)):
        with pytest.raises(type(error)), recorded(failed, "an arm"):
            raise error
    assert failed == {}


def test_reason_is_one_line_that_a_table_can_hold() -> None:
    text = reason_of(RuntimeError("save.py: exit statuses [1]:\n  a | b\n\nOSError: `/a/b c/d/x.py` of a/b\n"))
    assert text == "save.py: exit statuses [1] ... OSError: 'b c/d/x.py' of a/b"
    assert reason_of(RuntimeError()) == "RuntimeError"


def test_failures_are_found_wherever_they_stand_in_the_results() -> None:
    results = {"worlds": {"1": {"failed": {"a": ["x", "y"]}, "refused": {"b": ["z"]}}}, "storm": {"failed": {}}}
    assert all_failed(results) == ["a: x", "a: y"]
    assert told(results["worlds"]["1"]) == ["", "- **a failed**: `x`", "- **a failed**: `y`"]
    assert told(results["storm"]) == []


def test_recovery_goes_on_after_an_arm_failed_and_keeps_what_it_gave_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def kills_of_run(
        size: plan.Plan, arm: str, count: int, every: int, gap: Any, by: random.Random, found: list[dict[str, Any]]
    ) -> None:
        found.append({"completed": count})
        if arm == "bad":
            raise RuntimeError("no new step")

    monkeypatch.setattr(kills, "kills_of_run", kills_of_run)
    kept: list[Any] = []
    results = kills.measure_recovery(
        plan.Plan(Path("w"), "python", 1, repetitions=2),
        ["bad", "good"],
        lambda found: kept.append(copy.deepcopy(found)),
    )
    assert results["kills"] == {"bad": [{"completed": 4}] * 2, "good": [{"completed": 4}] * 2}
    assert results["failed"] == {"bad": ["no new step"] * 2}
    assert [len(found["kills"]["good"]) for found in kept] == [1, 2]


def test_saves_of_an_arm_that_fails_twice_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, bool]] = []

    def run_once(size: checkpoint_plan.Plan, arm: str, world: int, verify: bool) -> dict[str, Any]:
        tried.append((arm, verify))
        if arm == "bad" and not verify:
            raise RuntimeError("no port")
        return {"cost_seconds": [0.1]}

    monkeypatch.setattr(measure, "run_once", run_once)
    monkeypatch.setattr(measure, "check_saved", lambda *_: None)
    monkeypatch.setattr(measure, "summary", lambda answer, block: answer)
    monkeypatch.setattr(checkpoint_plan.Plan, "state_bytes", 1)
    found: dict[str, Any] = {}
    kept: list[int] = []
    size = checkpoint_plan.Plan(Path("w"), "python", repetitions=4)
    measure.measure_world(size, 1, ["bad", "good"], found, lambda: kept.append(len(found["samples"]["good"])))
    assert found["failed"] == {"bad": ["no port"] * 2}
    assert (tried.count(("bad", False)), tried.count(("good", False))) == (2, 4)
    assert kept == [0, 1, 2, 3, 4]
