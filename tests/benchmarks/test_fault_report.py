from __future__ import annotations

from typing import Any

import pytest

from benchmarks.faults.arms import HEADRACE, TORCHRUN
from benchmarks.faults.report import bound_of, section, targets
from benchmarks.faults.snapshots import WITH, WITHOUT

MACHINE = {
    "cpu": "CPU",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "Linux 6",
    "python": "3.11",
    "peers_versions": {"torch": "2.13"},
}


def kill(new_step: float, again: int, **more: Any) -> dict[str, Any]:
    figures = {"next_step_seconds": new_step - again, "new_step_seconds": new_step, "lost_seconds": new_step}
    return {**figures, "replayed_steps": again, "step_seconds": 0.4, "completed": 10, **more}


def run(step: float) -> dict[str, float]:
    return {"step_seconds": step, "keepers_cpu_seconds": 0.02}


PHASES = {"phases_seconds": {"forked": 0.1, "ready": 0.3, "first_step": 0.5}}
RECOVERY = {"save_every": 10, "kills": {HEADRACE: [kill(0.9, 0, **PHASES)] * 3, TORCHRUN: [kill(9.0, 4)] * 3}}
LOST = {"save_every": 50, "kills": {HEADRACE: [kill(0.9, 0), kill(0.9, 1)], TORCHRUN: [kill(20.0, 30)] * 2}}
SNAPSHOTS = {"steps": 60, "runs": {WITH: [run(0.412)] * 3, WITHOUT: [run(0.4)] * 3}}


def storm(own: float, peer: float, ended: str | None = None) -> dict[str, Any]:
    figures = {"new_steps": 900, "step_seconds": 0.4, "starts": 20, "stall_seconds": 1.0, "ended": None}
    return {
        "arms": {HEADRACE: {**figures, "goodput": own}, TORCHRUN: {**figures, "goodput": peer, "ended": ended}},
        "seconds": 600.0,
        "mean_seconds": 30.0,
        "save_every": 10,
        "failures": [[1.0, "kill", 0], [2.0, "cut_shard", 7], [3.0, "hang", 1]],
        "restarts": 20,
        "hangs": 1,
    }


def results(**parts: Any) -> dict[str, Any]:
    return {"machine": MACHINE, "seed": 7, "collective_seconds": 10.0, **parts}


def verdicts(found: dict[str, Any]) -> dict[str, tuple[float, bool]]:
    return {target.what: (target.found.median, target.is_met) for target in targets(found)}


def test_targets_of_recovery_compare_new_steps_and_steps_of_any_number() -> None:
    found = verdicts(results(recovery=RECOVERY))
    assert found["SIGKILL to the next new step, s"] == (0.9, True)
    assert found["next new step: torchrun's time over headrace's"] == (pytest.approx(10.0), True)
    assert found["next step of any number: torchrun's time over headrace's"] == (pytest.approx(5 / 0.9), False)


def test_targets_of_lost_work_go_by_the_worst_kill_and_by_what_snapshots_add() -> None:
    found = verdicts(results(lost=LOST, snapshots=SNAPSHOTS))
    assert found["steps run again after a kill, at most"] == (1.0, True)
    assert found["a snapshot at each step, share of the step"] == (pytest.approx(0.03), True)


def test_bound_takes_the_kills_of_the_same_run() -> None:
    assert bound_of(results(storm=storm(0.9, 0.4))) is None
    with_kills = results(recovery=RECOVERY, storm=storm(0.9, 0.4))
    assert bound_of(with_kills) == pytest.approx((600.0 - 20 * 0.9 - 5.0 - 1.0) / 600.0)
    found = verdicts(with_kills)
    assert found["goodput over its bound"] == (pytest.approx(0.9 / 0.96), True)
    assert found["goodput over torchrun's"] == (pytest.approx(2.25), True)


def test_targets_of_a_poor_storm_are_not_met() -> None:
    found = verdicts(results(recovery=RECOVERY, storm=storm(0.7, 0.5)))
    assert not found["goodput over its bound"][1]
    assert not found["goodput over torchrun's"][1]


def test_section_shows_phases_traces_and_an_arm_that_ended_by_itself() -> None:
    text = section(results(recovery=RECOVERY, lost=LOST, snapshots=SNAPSHOTS, storm=storm(0.9, 0.4, "gave up")))
    assert "0.10 s until new ranks are forked, 0.30 s until they have met" in text
    assert "| torchrun with DCP | 3 | 5.00 (5.00 to 5.00) | 9.00 (9.00 to 9.00) | 9.00 | 4 (4 to 4) | 400 |" in text
    assert "| torchrun with DCP | 2 | 30 (30 to 30) | 60 |" in text
    assert "Snapshots add 3.0% (3.0% to 3.0%) to a step" in text
    assert "in all 1 kill, 1 cut shard, 1 hang" in text
    assert "| torchrun with DCP | 0.400 | 900 | 400 | 20 | ended by itself |" in text
