"""Ranks that die in each phase, in gangs of two supervisors without Ray: exact, one step replayed, diagnosed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

import pytest

from cluster.policy import Death, Failure, GiveUp, decide
from cluster.spec import GangSpec
from monitoring.journal import last_values
from monitoring.translate import Translator
from tests.cluster.gang_process import start_process
from tests.end_to_end.headrace import events, records, run_file, steps
from tests.faults.rank_world import Start, run_files, run_spec

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(240)]

STEPS = 24
DEADLINE_SECONDS = 150
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}

KILLS = [
    {"kind": "kill", "rank": 1, "phase": "init"},
    {"kind": "kill", "rank": 0, "step": 3, "phase": "forward"},
    {"kind": "kill", "rank": 1, "step": 5, "phase": "collective"},
    {"kind": "kill", "rank": 0, "step": 8, "phase": "mid-save"},
    {"kind": "kill", "rank": 1, "step": 12, "phase": "before-rename"},
    {"kind": "kill", "rank": 0, "step": 16, "phase": "after-save"},
    {"kind": "kill", "rank": 1, "step": 19, "phase": "step"},
    {"kind": "kill", "rank": 1, "step": 20, "phase": "eval"},
]
OTHERS = [
    {"kind": "out_of_memory", "rank": 1, "step": 3},
    {"kind": "oom_kill", "rank": 0, "step": 6, "phase": "backward"},
    {"kind": "exit", "rank": 1, "step": 9, "phase": "data"},
    {"kind": "exception", "rank": 0, "step": 12, "phase": "collective"},
]


def file_of(folder: Path, name: str) -> Path:
    return run_file(
        folder,
        name,
        train={"max_steps": STEPS, "global_batch_size": 8, "micro_batch_size": 2, "lr": 3e-3},
        checkpoint={"interval": 4, "snapshot_interval": 1},
        eval={"interval": 10, "max_tokens": 256},
    )


def start_gang(file: Path, faults: Sequence[dict[str, Any]]) -> list[Popen[bytes]]:
    """Start two supervisors, each with a zygote and a rank."""
    spec = run_spec(Start(file, faults))
    out_dir = spec["config"]["out_dir"]
    gang = GangSpec("mill", out_dir, spec, "secret", max_failures=len(faults), env=ENVIRONMENT)
    return [start_process(gang, rank, 2) for rank in range(2)]


def run_gang(file: Path, faults: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run two supervisors to their end; how they ended."""
    return finish(start_gang(file, faults), file.parent / "runs" / file.stem)


def finish(supervisors: Sequence[Popen[bytes]], out_dir: Path) -> list[dict[str, Any]]:
    """Wait for the supervisors; how they ended."""
    try:
        for supervisor in supervisors:
            assert supervisor.wait(DEADLINE_SECONDS) == 0
    finally:
        for supervisor in supervisors:
            supervisor.kill()
            with suppress(TimeoutExpired):
                supervisor.wait(10)
    return [json.loads((out_dir / f"end-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undisturbed run."""
    folder = tmp_path_factory.mktemp("ranks")
    assert run_files(folder / "jobs", [Start(file_of(folder, "clean"))])[0]["status"] == 0
    return folder


def numbers(out_dir: Path) -> list[tuple[int, str, str]]:
    """(step, loss, hash of the sequences) of each step that is believed."""
    believed = last_values(records(out_dir)).items()
    return [(step, record["loss_hex"], record["sequence_hash"]) for step, record in believed]


def assert_exact_and_one_point(out_dir: Path, undisturbed: Path) -> None:
    assert numbers(out_dir) == numbers(undisturbed)
    assert [step for step, _, _ in numbers(out_dir)] == list(range(1, STEPS + 1))
    held_out = [
        {event["step"]: float(event["val_loss"]).hex() for event in events(of, "eval")} for of in (out_dir, undisturbed)
    ]
    assert held_out[0] == held_out[1]
    for step, seen in Counter(record["step"] for record in steps(out_dir)).items():
        values = {record["loss_hex"] for record in steps(out_dir) if record["step"] == step}
        assert len(values) == 1, (step, seen)
    points = Counter((point.key, point.step) for point in Translator().translate(records(out_dir)).points)
    assert {key: count for key, count in points.items() if count > 1} == {}


def replayed_steps(out_dir: Path) -> list[int]:
    """For each restart the steps that had been done before and were done again."""
    by_attempt: dict[int, list[int]] = {}
    for record in steps(out_dir):
        by_attempt.setdefault(record["attempt"], []).append(record["step"])
    replayed, newest = [], 0
    for ran in by_attempt.values():
        replayed.append(max(0, newest - ran[0] + 1))
        newest = max(newest, ran[-1])
    return replayed


def test_rank_killed_in_each_phase_goes_on_exactly_with_one_step_replayed_at_most(clean: Path) -> None:
    """Eight kills in one run: at the start, in a step, in the background save at three places, in an evaluation."""
    ends = run_gang(file_of(clean, "kills"), KILLS)
    out_dir = clean / "runs/kills"
    assert [end["status"] for end in ends] == ["finished", "finished"]
    marks = [json.loads(path.read_text()) for path in sorted((out_dir / "faults").iterdir())]
    assert [(mark["rank"], mark["phase"]) for mark in marks] == [(fault["rank"], fault["phase"]) for fault in KILLS]
    deaths = events(out_dir, "rank_dead")
    assert [death["rank"] for death in deaths] == [fault["rank"] for fault in KILLS]
    assert {death["signal"] for death in deaths} == {9}
    assert_exact_and_one_point(out_dir, clean / "runs/clean")
    assert max(replayed_steps(out_dir)) <= 1


@pytest.mark.long
def test_rank_out_of_memory_or_ended_otherwise_goes_on_exactly_and_is_diagnosed(clean: Path) -> None:
    ends = run_gang(file_of(clean, "others"), OTHERS)
    out_dir = clean / "runs/others"
    assert [end["status"] for end in ends] == ["finished", "finished"]
    deaths = events(out_dir, "rank_dead")
    assert [(death["rank"], death["step"]) for death in deaths] == [(f["rank"], f["step"]) for f in OTHERS]
    reasons = [death["reason"] for death in deaths]
    assert "OutOfMemoryError" in reasons[0]
    assert "signal 9" in reasons[1]
    assert "exit status 1" in reasons[2]
    assert "RuntimeError" in reasons[3]
    assert_exact_and_one_point(out_dir, clean / "runs/clean")
    assert max(replayed_steps(out_dir)) <= 1


@pytest.mark.long
def test_rank_that_fails_at_the_same_step_for_ever_is_given_up_with_step_and_sequences(clean: Path) -> None:
    for_ever = [{"kind": "exception", "rank": 1, "step": 6, "phase": "backward"}] * 9
    ends = run_gang(file_of(clean, "for-ever"), for_ever)
    out_dir = clean / "runs/for-ever"
    assert {(end["status"], end["kind"]) for end in ends} == {("failed", "program")}
    assert len(list((out_dir / "attempts").glob("[0-9][0-9][0-9][0-9].json"))) == 2
    text = ends[0]["text"]
    assert "rank 1 on node1" in text
    assert "at step 6" in text
    assert "in step 6, which takes 8 sequences from position 40 of the order on" in text


def test_bad_numbers_by_which_a_run_stops_are_not_tried_again() -> None:
    death = Death(0, "node", "exception", "step 7: nan", 7, error_type="trainer.errors.BadNumbersError")
    decision = decide((), Failure(1, death, 6), max_failures=10)
    assert isinstance(decision, GiveUp)
    assert decision.diagnosis.final
    assert decision.diagnosis.reason == "step 7: nan"
