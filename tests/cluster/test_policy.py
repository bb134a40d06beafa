import pickle
from dataclasses import replace

import pytest

from cluster.policy import (
    Death,
    Diagnosis,
    Failure,
    GiveUp,
    Restart,
    attempts_without_step,
    decide,
    root_cause,
)
from cluster.spec import GangFailed

SIGNAL = Death(1, "mill", "signal", "killed by signal 9", step=5, signal=9)
ERROR = Death(
    0, "mill", "exception", "ValueError: bad", 5, 1, error_type="ValueError", error_message="bad", last_lines=("x",)
)
HANG = Death(1, "mill", "hang", "stopped or starved", step=5)


def failures(*steps: int, death: Death = SIGNAL) -> tuple[Failure, ...]:
    return tuple(Failure(number, replace(death, step=step), step) for number, step in enumerate(steps, 1))


def after(*steps: int, death: Death = SIGNAL, max_failures: int = 10) -> Restart | GiveUp:
    *history, last = failures(*steps, death=death)
    return decide(tuple(history), last, max_failures)


def kind(decision: Restart | GiveUp) -> str:
    assert isinstance(decision, GiveUp)
    return decision.diagnosis.kind


@pytest.mark.parametrize("death", [SIGNAL, ERROR, HANG])
def test_decide_first_failure_restarts_at_once(death: Death) -> None:
    assert after(5, death=death) == Restart(0.0)


def test_decide_signals_with_progress_restart_until_the_budget_is_used() -> None:
    assert after(1, 2, 3, 4, 5, max_failures=5) == Restart(0.0)
    assert kind(after(1, 2, 3, 4, 5, 6, max_failures=5)) == "budget"


def test_decide_no_budget_gives_up_at_once() -> None:
    assert kind(after(5, max_failures=0)) == "budget"


def test_decide_three_attempts_without_a_step_are_the_end() -> None:
    assert after(0) == Restart(0.0)
    assert after(0, 0) == Restart(1.0)
    assert kind(after(0, 0, 0)) == "no_progress"
    assert after(9, 9, 8) == Restart(1.0)
    assert kind(after(9, 9, 8, 7)) == "no_progress"


def test_decide_a_new_step_resets_the_count() -> None:
    assert after(0, 0, 1, 1, 1) == Restart(1.0)


def test_decide_same_exception_at_same_step_twice_gives_up() -> None:
    decision = after(5, 5, death=ERROR)
    assert isinstance(decision, GiveUp)
    assert decision.diagnosis == Diagnosis(
        "program", "the same exception twice at the same step: ValueError: bad", 2, ERROR
    )
    assert decision.diagnosis.text() == (
        "the same exception twice at the same step: ValueError: bad (rank 0 on mill, attempt 2, at step 5)\n  | x"
    )


def test_decide_same_exception_with_another_object_address_is_the_same() -> None:
    first = replace(ERROR, error_message="bad <Wheel at 0x7f01>")
    second = replace(ERROR, error_message="bad <Wheel at 0x7fff>")
    assert kind(decide((Failure(1, first, 5),), Failure(2, second, 5), 10)) == "program"


@pytest.mark.parametrize("change", [{"step": 6}, {"error_message": "worse"}, {"error_type": "TypeError"}])
def test_decide_another_exception_restarts(change: dict[str, object]) -> None:
    other = replace(ERROR, **change)  # type: ignore[arg-type]
    assert isinstance(decide((Failure(1, ERROR, 5),), Failure(2, other, 6), 10), Restart)


def test_decide_same_signal_at_same_step_twice_is_borne() -> None:
    assert isinstance(after(5, 5), Restart)


def test_decide_same_exit_status_twice_gives_up() -> None:
    death = Death(0, "mill", "exit", "exit status 7", 5, exit_code=7)
    assert kind(after(5, 5, death=death)) == "program"


@pytest.mark.parametrize(
    ("death_kind", "diagnosis", "final"),
    [
        ("input", "input", True),
        ("preload", "program", True),
        ("node", "infrastructure", False),
        ("supervisor", "infrastructure", False),
    ],
)
def test_decide_kinds_that_no_restart_mends_give_up(death_kind: str, diagnosis: str, final: bool) -> None:
    decision = after(5, death=replace(SIGNAL, kind=death_kind))
    assert isinstance(decision, GiveUp)
    assert (decision.diagnosis.kind, decision.diagnosis.final) == (diagnosis, final)


def test_attempts_without_step_none_failed_is_zero() -> None:
    assert attempts_without_step(()) == 0
    assert attempts_without_step(failures(3, 2, 3)) == 2


def test_root_cause_is_the_first_death() -> None:
    assert root_cause((HANG, SIGNAL)) == HANG
    assert root_cause((ERROR,)) == ERROR
    assert root_cause((ERROR, replace(ERROR, rank=1))) == ERROR


def test_root_cause_killed_rank_goes_before_its_peers_exception() -> None:
    assert root_cause((ERROR, SIGNAL)) == SIGNAL


def test_root_cause_abort_does_not_go_before_an_exception() -> None:
    abort = replace(SIGNAL, signal=6)
    assert root_cause((ERROR, abort)) == ERROR
    assert root_cause((abort, SIGNAL)) == SIGNAL


def test_gang_failed_survives_pickling_with_its_diagnosis() -> None:
    error = GangFailed(Diagnosis("program", "it broke", 2, ERROR))
    again = pickle.loads(pickle.dumps(error))
    assert (again.diagnosis, str(again)) == (error.diagnosis, str(error))


def test_attempt_that_adapted_is_no_sign_of_standing_still() -> None:
    def adapted(attempt: int) -> Failure:
        text = f"passes of {2 ** (9 - attempt)} sequences"
        error = {"error_type": "trainer.errors.SmallerMicroBatchError", "error_message": text}
        return Failure(attempt, Death(0, "n0", "exception", text, step=1, **error), step=0)  # type: ignore[arg-type]

    history = tuple(adapted(attempt) for attempt in range(1, 6))
    assert decide(history, adapted(6), max_failures=10) == Restart(0.0)
    assert attempts_without_step(history) == 0
    assert isinstance(decide(history, adapted(6), max_failures=5), GiveUp)
