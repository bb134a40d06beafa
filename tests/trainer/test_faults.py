from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.errors import TrainError
from trainer.faults import VARIABLE, Fault, FaultPoints, faults_of_environment, parse_faults

KILL = {"kind": "kill", "rank": 1, "step": 3}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "faults: must be a list of faults, found {}"),
        ([3], r"faults\[0\]: a fault must be an object such as .*, found 3"),
        ([KILL, {**KILL, "stap": 3}], r"faults\[1\].stap: no such field of a fault. There are attempt, kind, phase"),
        ([{**KILL, "kind": "burn"}], r"faults\[0\].kind: must be one of kill, .*, found 'burn'"),
        ([{**KILL, "phase": "lunch"}], r"faults\[0\].phase: must be one of init, .*, found 'lunch'"),
        ([{**KILL, "kind": "spike", "phase": "save"}], r"faults\[0\].phase: must be forward for spike, found 'save'"),
        ([{"kind": "kill", "step": 3}], r"faults\[0\].rank: must be a whole number of at least 0, found None"),
        ([{"kind": "kill", "rank": 0}], r"faults\[0\].step: must be a whole number of at least 0, found None"),
        ([{**KILL, "attempt": 0}], r"faults\[0\].attempt: must be a whole number of at least 1, found 0"),
        ([{**KILL, "seconds": -1}], r"faults\[0\].seconds: must be a number above 0, found -1"),
        ([{**KILL, "steps": True}], r"faults\[0\].steps: must be a whole number of at least 1, found True"),
    ],
)
def test_parse_faults_of_impossible_entries_names_entry_rule_and_value(entries: Any, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        parse_faults(entries, "faults")


def test_parse_faults_fills_in_what_is_not_said() -> None:
    start = {"kind": "exit", "rank": 0, "phase": "init", "attempt": 2}
    assert parse_faults([KILL, start], "faults") == (Fault("kill", 1, 3), Fault("exit", 0, 0, "init", attempt=2))


def test_faults_of_environment_are_checked_before_a_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert faults_of_environment() == []
    monkeypatch.setenv(VARIABLE, json.dumps([KILL]))
    assert faults_of_environment() == [KILL]
    monkeypatch.setenv(VARIABLE, "[{]")
    with pytest.raises(TrainError, match="HEADRACE_FAULTS: must be a JSON list of faults, found"):
        faults_of_environment()


def points(out_dir: Path, *faults: Fault, rank: int = 1, attempt: int = 1) -> FaultPoints:
    return FaultPoints(faults, out_dir, rank, attempt)


def test_fault_strikes_its_rank_and_attempt_at_the_first_time_from_its_step_on_and_once_per_run(
    tmp_path: Path,
) -> None:
    fault = Fault("exception", 1, 5, "save", attempt=2)
    points(tmp_path, fault, rank=0, attempt=2).at(6, "save")
    points(tmp_path, fault).at(6, "save")
    struck = points(tmp_path, fault, attempt=2)
    struck.at(4, "save")
    struck.at(5, "eval")
    with pytest.raises(RuntimeError, match=r"fault \(exception\) at step 8, phase save"):
        struck.at(8, "save")
    struck.at(9, "save")
    points(tmp_path, fault, attempt=2).at(8, "save")
    mark = json.loads((tmp_path / "faults/0000.json").read_text())
    assert {key: mark[key] for key in ("kind", "rank", "step", "phase", "attempt")} == {
        "kind": "exception",
        "rank": 1,
        "step": 8,
        "phase": "save",
        "attempt": 2,
    }


def test_fault_that_another_process_has_taken_meanwhile_does_not_strike(tmp_path: Path) -> None:
    one, other = (points(tmp_path, Fault("exception", 1, 2)) for _ in range(2))
    with pytest.raises(RuntimeError):
        one.at(2, "forward")
    other.at(2, "forward")


def test_faults_in_numbers_spoil_a_step_each(tmp_path: Path) -> None:
    """The second waits until the step, or another try of it, begins again."""
    spoilers = points(tmp_path, Fault("nan_loss", 1, 2), Fault("spike", 1, 2), Fault("nan_gradient", 1, 2))

    def losses_and_gradients() -> tuple[float, float]:
        weight = torch.tensor(3.0, requires_grad=True)
        spoilers.at(2, "data")
        spoilers.at(2, "forward")
        loss = spoilers.spoil(weight * 2.0)
        loss.backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        return float(loss.detach()), float(weight.grad)

    assert str(losses_and_gradients()) == "(nan, nan)"
    assert losses_and_gradients() == (6e4, 2e4)
    assert str(losses_and_gradients()) == "(6.0, nan)"
    assert losses_and_gradients() == (6.0, 2.0)


def test_slow_sleeps_once_a_step_for_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("trainer.faults.time.sleep", slept.append)
    slow = points(tmp_path, Fault("slow", 1, 3, seconds=0.5, steps=2))
    for step in range(1, 8):
        for _ in range(2):  # micro-batches
            slow.at(step, "forward")
    assert slept == [0.5, 0.5]


def test_out_of_memory_is_the_exception_that_torch_raises(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        points(tmp_path, Fault("out_of_memory", 1, 1)).at(1, "forward")
