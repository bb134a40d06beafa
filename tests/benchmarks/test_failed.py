"""An arm that fails is noted with its reason; what is a fault of the benchmark itself is not."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks.faults.failed import Failed, all_failed, reason_of, recorded, told


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
    assert text == "save.py: exit statuses [1]: ... OSError: 'b c/d/x.py' of a/b"
    assert reason_of(RuntimeError()) == "RuntimeError"


def test_failures_are_found_wherever_they_stand_in_the_results() -> None:
    results = {"worlds": {"1": {"failed": {"a": ["x", "y"]}, "refused": {"b": ["z"]}}}, "storm": {"failed": {}}}
    assert all_failed(results) == ["a: x", "a: y"]
    assert told(results["worlds"]["1"]) == ["", "- **a failed**: `x`", "- **a failed**: `y`"]
    assert told(results["storm"]) == []
