"""Verdicts on made-up runs: each promise holds of a good one, and each breach is named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.chaos.evidence import Checkpoint, Evidence
from cluster.chaos.injection import Injection
from cluster.chaos.plan import Fault
from cluster.chaos.report import to_dict, to_text
from cluster.chaos.verdict import Limits, Verdict, judge

STEPS = 20
LIMITS = Limits(checkpoint_steps=5, hang_seconds=3.0, has_dropout=False)
STEP_SECONDS = 0.1


def loss_of(step: int) -> float:
    return 5.0 / step


def step_record(step: int, attempt: int, time: float, loss: float | None = None) -> dict[str, Any]:
    value = loss_of(step) if loss is None else loss
    return {
        "step": step,
        "attempt": attempt,
        "time": time,
        "loss": value,
        "loss_hex": value.hex(),
        "grad_norm": 1.0 + step,
        "tokens": 256 * step,
        "sequence_hash": f"{step:032x}",
        "step_seconds": STEP_SECONDS,
    }


def event(name: str, attempt: int, time: float, **fields: Any) -> dict[str, Any]:
    return {"event": name, "attempt": attempt, "time": time, **fields}


def attempt_records(attempt: int, steps: Iterable[int], began: float, world_size: int = 2) -> list[dict[str, Any]]:
    """A start and the steps after it, a tenth of a second each."""
    steps = list(steps)
    times = [began + STEP_SECONDS * (i + 1) for i in range(len(steps))]
    start = event("start", attempt, began, world_size=world_size, resumed_step=steps[0] - 1)
    return [start, *(step_record(step, attempt, time) for step, time in zip(steps, times, strict=True))]


def evidence(records: Sequence[dict[str, Any]], ends: bool = True) -> Evidence:
    """A run with these records, whose other traces are good."""
    records = (
        [*records, event("end", records[-1]["attempt"], records[-1]["time"], status="finished")] if ends else records
    )
    by_step = {record["step"]: record for record in records if "event" not in record}
    points = [(key, step, by_step[step][key]) for step in sorted(by_step) for key in ("loss", "grad_norm")]
    checkpoints = (Checkpoint("c/15", 15, (), ("aa",)), Checkpoint("c/20", STEPS, (), ("bb", "cc")))
    return Evidence(0, tuple(records), tuple(points), checkpoints)


CALM = evidence(attempt_records(1, range(1, STEPS + 1), began=100.0))
KILL = Fault(kind="kill_rank", rank=1, at_step=10)


def killed(resumed: int = 9, pause: float = 0.5, **changes: Any) -> tuple[Evidence, Injection]:
    """A run whose rank 1 is killed after step 10 and that goes on from `resumed`."""
    first = attempt_records(1, range(1, 11), began=100.0)
    death = event("rank_dead", 1, first[-1]["time"] + 0.1, rank=1, node="a", reason="killed")
    second = attempt_records(2, range(resumed + 1, STEPS + 1), began=first[-1]["time"] + pause, **changes)
    injection = Injection(0, KILL, "rank 1", first[-1]["time"] + 0.05, 10)
    return evidence([*first, death, *second]), injection


def problems(verdict: Verdict) -> list[str]:
    of_faults = [problem for outcome in verdict.outcomes for problem in outcome.problems]
    return [*of_faults, *(problem for promise in verdict.promises for problem in promise.problems)]


def test_verdict_on_a_run_that_was_killed_and_went_on_exactly_holds() -> None:
    rough, injection = killed()
    verdict = judge(CALM, rough, [injection], [], LIMITS)
    assert problems(verdict) == []
    assert verdict.held
    [outcome] = verdict.outcomes
    assert outcome.detected_seconds == pytest.approx(0.05)
    assert outcome.new_step_seconds == pytest.approx(0.5 + 2 * STEP_SECONDS - 0.05)
    assert outcome.replayed_steps == 1


def test_verdict_on_a_step_that_the_old_attempt_still_wrote_counts_it_as_replayed() -> None:
    rough, injection = killed(resumed=9)
    early = replace_time(injection, 100.95)  # just before the record of step 10
    [outcome] = judge(CALM, rough, [early], [], LIMITS).outcomes
    assert outcome.replayed_steps == 1
    assert outcome.new_step_seconds == pytest.approx(100.0 + 1.0 + 0.5 + 2 * STEP_SECONDS - 100.95)


def replace_time(injection: Injection, time: float) -> Injection:
    return replace(injection, time=time)


@given(at=st.integers(1, STEPS - 1), resumed=st.integers(0, STEPS - 1), pause=st.floats(0.2, 60.0))
def test_outcome_counts_the_steps_between_the_resumed_one_and_the_fault(at: int, resumed: int, pause: float) -> None:
    resumed = min(resumed, at)
    first = attempt_records(1, range(1, at + 1), began=100.0)
    second = attempt_records(2, range(resumed + 1, STEPS + 1), began=first[-1]["time"] + pause)
    injection = Injection(0, Fault(kind="kill_driver", at_step=at), "", first[-1]["time"] + 0.01, at, gone_seconds=1.0)
    verdict = judge(CALM, evidence([*first, *second]), [injection], [], replace(LIMITS, checkpoint_steps=STEPS))
    assert verdict.held, problems(verdict)
    [outcome] = verdict.outcomes
    assert outcome.replayed_steps == at - resumed
    assert outcome.new_step_seconds == pytest.approx(pause - 0.01 + STEP_SECONDS * (at - resumed + 1))


def with_record(rough: Evidence, step: int, **fields: Any) -> Evidence:
    records = [
        {**record, **fields} if "event" not in record and (record["step"], record["attempt"]) == (step, 2) else record
        for record in rough.records
    ]
    return replace(rough, records=tuple(records))


def without(points: Sequence[Any], key: str, step: int) -> tuple[Any, ...]:
    return tuple(point for point in points if point[:2] != (key, step))


ROUGH, INJECTION = killed()
NO_STEP_15 = tuple(record for record in ROUGH.records if "event" in record or record["step"] != 15)
FALSE = (5.0 / 15) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("rough", "message"),
    [
        (
            replace(ROUGH, exit_status=1, log_tail="a\nheadrace: failed: it did"),
            "exit status was 1; it said: headrace: f",
        ),
        (replace(ROUGH, exit_status=None), "exit status was None"),
        (replace(ROUGH, records=ROUGH.records[:-1]), "the journal ends with no end"),
        (replace(ROUGH, records=NO_STEP_15), "step 15 is not in the journal"),
        (with_record(ROUGH, 15, loss=None, loss_hex="nan"), "step 15 has a loss that is not finite"),
        (with_record(ROUGH, 15, loss=FALSE, loss_hex=FALSE.hex()), "step 15's loss is not bit-equal"),
        (with_record(ROUGH, 10, loss=1.0, loss_hex=(1.0).hex()), "step 10's loss is not bit-equal"),
        (with_record(ROUGH, 15, sequence_hash="00"), "step 15 saw other sequences"),
        (with_record(ROUGH, 15, tokens=1), "step 15 saw other sequences"),
        (replace(ROUGH, left_over=("headrace: rank 0/2 of x",)), "headrace: rank 0/2 of x"),
        (replace(ROUGH, checkpoints=()), "the newest checkpoint is not whole"),
        (replace(ROUGH, checkpoints=(Checkpoint("c/20", 20, ("cut",), ()),)), "c/20: cut"),
        (replace(ROUGH, checkpoints=(Checkpoint("c/20", 20, (), ("bb", "dd")),)), "the last checkpoint's files differ"),
        (replace(ROUGH, points=without(ROUGH.points, "loss", 15)), "loss of step 15 is not there"),
        (replace(ROUGH, points=(*ROUGH.points, ("loss", 15, loss_of(15)))), "loss of step 15 is there twice"),
        (
            replace(ROUGH, points=(*without(ROUGH.points, "loss", 15), ("loss", 15, 9.0))),
            "loss of step 15 is not the j",
        ),
    ],
)
def test_verdict_on_a_broken_promise_names_it(rough: Evidence, message: str) -> None:
    verdict = judge(CALM, rough, [INJECTION], [], LIMITS)
    assert not verdict.held
    assert any(message in problem for problem in problems(verdict)), problems(verdict)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fault": KILL.model_copy(update={"rank": 0})}, "rank 0 was to be named, found [1]"),
        ({"fault": Fault(kind="kill_driver", at_step=10), "gone_seconds": 5.5}, "ended after 5.50 s, allowed are 5 s"),
        (
            {"fault": Fault(kind="kill_raylet", rank=1, at_step=10)},
            "ended after no time that was seen, allowed are 3 s",
        ),
        ({"fault": Fault(kind="terminate_driver", at_step=10), "exit_status": -15}, "exit status was -15, must be 3"),
        (
            {"fault": Fault(kind="terminate_driver", at_step=10), "exit_status": 3},
            "1 steps were run again, allowed are 0",
        ),
    ],
)
def test_outcome_beyond_its_kinds_limits_is_named(changes: dict[str, Any], message: str) -> None:
    verdict = judge(CALM, ROUGH, [replace(INJECTION, **changes)], [], LIMITS)
    assert any(message in problem for problem in problems(verdict)), problems(verdict)


def test_outcome_of_a_stop_must_be_detected_within_twice_the_limit() -> None:
    stop = replace(INJECTION, fault=Fault(kind="stop_rank", rank=1, at_step=10))
    assert judge(CALM, ROUGH, [stop], [], LIMITS).held
    slow = judge(CALM, ROUGH, [stop], [], replace(LIMITS, hang_seconds=0.02))
    assert problems(slow) == ["detected after 0.05 s, allowed are 0.04 s"]


def test_outcome_with_too_many_steps_run_again_is_named_unless_a_checkpoint_was_damaged() -> None:
    rough, injection = killed(resumed=0)
    verdict = judge(CALM, rough, [injection], [], replace(LIMITS, checkpoint_steps=4))
    assert problems(verdict) == ["10 steps were run again, allowed are 8"]
    damage = Injection(1, Fault(kind="flip_checkpoint", at_step=10), "", injection.time - 0.01, 10, path="c/10")
    assert judge(CALM, rough, [injection, damage], [], replace(LIMITS, checkpoint_steps=4)).held


def test_verdict_names_faults_that_did_not_come_about() -> None:
    assert problems(judge(CALM, ROUGH, [INJECTION], [3], LIMITS)) == ["fault 3 of the plan did not come about"]


def test_verdict_allows_a_damaged_checkpoint_to_stay_damaged() -> None:
    bad = Checkpoint("c/10", 10, ("flipped",), ())
    rough = replace(ROUGH, checkpoints=(bad, *ROUGH.checkpoints))
    assert problems(judge(CALM, rough, [INJECTION], [], LIMITS)) == ["c/10: flipped"]
    damage = replace(INJECTION, fault=Fault(kind="flip_checkpoint", at_step=10), path="c/10")
    assert judge(CALM, rough, [damage], [], LIMITS).held


def resized(first_error: float, later_error: float) -> Evidence:
    """A run that goes on with one worker after step 10; its losses differ by so much, relatively."""
    rough, _ = killed(resumed=10, world_size=1)
    errors = {11: first_error, **dict.fromkeys(range(12, STEPS + 1), later_error)}
    for step, error in errors.items():
        value = loss_of(step) * (1 + error)
        rough = with_record(rough, step, loss=value, loss_hex=value.hex())
    points = [(key, r["step"], r[key]) for r in rough.records if "event" not in r for key in ("loss", "grad_norm")]
    return replace(rough, points=tuple(points))


@pytest.mark.parametrize(
    ("first", "later", "found"),
    [
        (5e-7, 5e-4, []),
        (5e-6, 5e-4, ["step 11's loss differs by 5.0e-06, allowed are 1e-06"]),
        (5e-7, 5e-3, [f"step {step}'s loss differs by 5.0e-03, allowed are 1e-03" for step in (12, 13, 14)]),
    ],
)
def test_losses_at_another_world_size_are_judged_by_rounding(first: float, later: float, found: list[str]) -> None:
    assert problems(judge(CALM, resized(first, later), [INJECTION], [], LIMITS)) == found


def test_losses_at_another_world_size_with_dropout_are_not_judged_but_those_before_are() -> None:
    limits = replace(LIMITS, has_dropout=True)
    assert judge(CALM, resized(0.1, 0.1), [INJECTION], [], limits).held
    records = [{**r, "loss_hex": "0x0p+0"} if r.get("step") == 3 else r for r in resized(0.1, 0.1).records]
    broken = replace(resized(0.1, 0.1), records=tuple(records))
    assert problems(judge(CALM, broken, [INJECTION], [], limits)) == ["step 3's loss is not bit-equal"]


def test_verdict_after_bad_numbers_compares_no_data_but_holds_the_rest() -> None:
    bad = replace(INJECTION, fault=Fault(kind="nan_loss", rank=1, at_step=10))
    other = with_record(ROUGH, 15, sequence_hash="00")
    assert judge(CALM, other, [bad], [], LIMITS).held
    assert not judge(CALM, replace(other, left_over=("x",)), [bad], [], LIMITS).held


def test_report_shows_every_fault_and_every_breach() -> None:
    verdict = judge(CALM, replace(ROUGH, left_over=("headrace: rank 0/2 of x",)), [INJECTION], [2], LIMITS)
    text = to_text(verdict, {"undisturbed": 0.9, "disturbed": None})
    for words in ("kill_rank: rank 1", "NO: headrace: rank 0/2 of x", "90.0%", "unknown", "NOT every promise held"):
        assert words in text
    value = to_dict(verdict, {"undisturbed": 0.9})
    assert value["held"] is False
    assert value["faults"][0]["fault"] == {"kind": "kill_rank", "rank": 1, "at_step": 10}
    assert value["replayed_steps"] == 1
