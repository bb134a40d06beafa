from __future__ import annotations

from typing import Any

import pytest

from benchmarks.faults.arms import HEADRACE, TORCHRUN
from benchmarks.faults.report import section
from benchmarks.faults.snapshots import WITH, WITHOUT, mean_step_seconds, snapshot_share
from benchmarks.faults.steps import Step
from benchmarks.faults.storm import checkpoint_stalls, hangs
from benchmarks.faults.targets import bound_of, targets
from benchmarks.harness.targets import Target, Unmeasured
from trainer.checkpoint.memory_layout import Numbers, Slot

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
    return {"step_seconds": step, "keepers_cpu_seconds": 0.02, "share_of_steps": 0.75}


PHASES = {"phases_seconds": {"forked": 0.1, "ready": 0.3, "first_step": 0.5}}
RECOVERY = {"save_every": 10, "kills": {HEADRACE: [kill(0.9, 0, **PHASES)] * 3, TORCHRUN: [kill(9.0, 4)] * 3}}
LOST = {"save_every": 50, "kills": {HEADRACE: [kill(0.9, 0), kill(0.9, 1)], TORCHRUN: [kill(20.0, 30)] * 2}}
SNAPSHOTS = {"steps": 60, "runs": {WITH: [run(0.412)] * 3, WITHOUT: [run(0.4)] * 3}}


def storm(own: float, peer: float, ended: str | None = None) -> dict[str, Any]:
    figures = {"step_seconds": 0.4, "starts": 20, "stall_seconds": 1.0, "hang_seconds": [4.0], "ended": None}
    figures["done"] = ["kill"] * 18 + ["cut_shard", "hang", "cut_checkpoint"]
    peers = {**figures, "goodput": peer, "new_steps": 500, "ended": ended}
    return {
        "arms": {HEADRACE: {**figures, "goodput": own, "new_steps": 900}, TORCHRUN: peers},
        "failed": {},
        "seconds": 600.0,
        "mean_seconds": 30.0,
        "save_every": 10,
        "failures": [[1.0, "kill", 0], [2.0, "cut_shard", 7], [3.0, "hang", 1]],
    }


def results(**parts: Any) -> dict[str, Any]:
    return {"machine": MACHINE, "seed": 7, "collective_seconds": 10.0, **parts}


def verdicts(found: dict[str, Any]) -> dict[str, tuple[float, bool]]:
    return {
        target.what: (target.found.median, target.is_met) for target in targets(found) if isinstance(target, Target)
    }


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
    assert bound_of(with_kills) == pytest.approx((600.0 - 20 * 0.9 - 4.0 - 1.0) / 600.0)
    found = verdicts(with_kills)
    assert found["one trace: goodput over its bound"] == (pytest.approx(0.9 * 600.0 / 577.0), True)
    assert found["one trace: goodput, headrace's over torchrun's"] == (pytest.approx(2.25), True)
    assert found["one trace: new steps in the same wall time, headrace's over torchrun's"] == (1.8, False)


def test_bound_takes_the_usual_limit_for_a_hang_of_which_the_journal_has_no_time() -> None:
    quiet = results(recovery=RECOVERY, storm=storm(0.9, 0.4))
    quiet["storm"]["arms"][HEADRACE]["hang_seconds"] = []
    assert bound_of(quiet) == pytest.approx((600.0 - 20 * 0.9 - 5.0 - 1.0) / 600.0)


def test_targets_of_what_failed_or_was_not_run_are_told_as_not_measured() -> None:
    failed = {**RECOVERY, "kills": {**RECOVERY["kills"], TORCHRUN: []}, "failed": {TORCHRUN: ["no step in time"]}}
    found = {one.what: one.verdict for one in targets(results(recovery=failed)) if isinstance(one, Unmeasured)}
    assert found["next new step: torchrun's time over headrace's"] == (
        "**not measured: torchrun with DCP: no step in time**"
    )
    assert found["steps run again after a kill, at most"] == "**not measured: this part was not run**"
    assert len(found) == 7
    assert f"- **{TORCHRUN} failed**: `no step in time`" in section(results(recovery=failed))


def test_section_of_parts_that_gave_nothing_says_so() -> None:
    empty = {"failed": {"two nodes": ["no Ray"]}}
    text = section(
        results(
            recovery={"save_every": 10, "kills": {HEADRACE: []}, **empty},
            lost={"save_every": 10, "kills": {HEADRACE: []}, **empty},
            snapshots={"steps": 60, "runs": {WITH: [], WITHOUT: []}, **empty},
            storm={**storm(0.9, 0.4), "arms": {}, **empty},
        )
    )
    assert (
        "| a snapshot at each step, share of the step | ≤ 0.05 |  | **not measured: each step, copied: no Ray** |"
        in text
    )
    assert "Headrace's recovery by phase: not measured." in text


def test_storm_reads_stalls_and_hangs_off_the_events_of_the_journal() -> None:
    save = {"event": "checkpoint", "stall_seconds": 0.5, "held_seconds": 0.25}
    hang = {"event": "rank_dead", "kind": "hang", "detected_seconds": 5.5}
    events = [save, hang, {"event": "rank_dead", "kind": "signal", "detected_seconds": 0.1}, {"event": "start"}]
    assert checkpoint_stalls(events) == 0.75
    assert hangs(events) == [5.5]


def test_share_of_steps_with_a_snapshot_goes_by_the_writes_between_two_looks() -> None:
    def numbers(step: int, version: int) -> Numbers:
        return Numbers(b"", (Slot(step, 1, version), Slot(step - 1, 1, version - 1)), version, 0, 1, version)

    assert snapshot_share(numbers(10, 8), numbers(30, 23)) == pytest.approx(0.75)
    assert snapshot_share(numbers(10, 8), numbers(10, 8)) == 0.0


def test_mean_step_reaches_from_border_to_border() -> None:
    steps = [Step(step, at, 1) for step, at in ((4, 0.0), (5, 1.0), (6, 1.5), (7, 9.0), (8, 99.0))]
    assert mean_step_seconds(steps, 5, 7) == pytest.approx(4.0)


def test_targets_of_a_poor_storm_are_not_met() -> None:
    found = verdicts(results(recovery=RECOVERY, storm=storm(0.7, 0.5)))
    assert not found["one trace: goodput over its bound"][1]
    assert not found["one trace: goodput, headrace's over torchrun's"][1]


def test_section_shows_phases_traces_and_an_arm_that_ended_by_itself() -> None:
    text = section(results(recovery=RECOVERY, lost=LOST, snapshots=SNAPSHOTS, storm=storm(0.9, 0.4, "gave up")))
    assert "| until new ranks are forked | 0.10 (0.10 to 0.10) | 11% |" in text
    assert "| torchrun with DCP | 5.00 (5.00 to 5.00) | 4.00 (4.00 to 4.00) | 44% |" in text
    assert "| before hangs were told | 4.0 | 0.7% |" in text
    assert "| torchrun with DCP | 3 | 5.00 (5.00 to 5.00) | 9.00 (9.00 to 9.00) | 9.00 | 4 (4 to 4) | 400 |" in text
    assert "| torchrun with DCP | 2 | 30 (30 to 30) | 60 |" in text
    assert "Snapshots of 75% of the steps add 3.0% (3.0% to 3.0%) to a step" in text
    assert "in all 1 kill, 1 cut shard, 1 hang" in text
    assert "| torchrun with DCP | 0.400 | 500 | 400 | 21 of 3 | 20 | ended by itself |" in text
