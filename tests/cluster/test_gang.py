"""How a gang's end is read off what its supervisors and Ray leave behind."""

from __future__ import annotations

import logging

import pytest
import ray.train
from ray.exceptions import ActorDiedError

from cluster.gang import _fit, _verdict_of, _verdict_of_ray, make_gang_spec
from cluster.gang_folder import Verdict
from cluster.policy import Death, Diagnosis
from cluster.spec import GangFailed


def diagnosis(kind: str, death_kind: str | None) -> Diagnosis:
    death = None if death_kind is None else Death(1, "10.0.0.2", death_kind, "why", last_lines=("its last line",))
    return Diagnosis(kind, "why", 4, death)


@pytest.mark.parametrize(
    ("kind", "death_kind", "told"),
    [
        ("infrastructure", "node", "loss"),
        ("infrastructure", "supervisor", "loss"),
        ("infrastructure", "fenced", "fenced"),
        ("infrastructure", None, "infrastructure"),
        ("program", "exception", "program"),
        ("budget", "signal", "budget"),
    ],
)
def test_verdict_tells_losses_from_what_another_gang_would_meet_again(
    kind: str, death_kind: str | None, told: str
) -> None:
    verdict = _verdict_of(diagnosis(kind, death_kind))
    assert (verdict.status, verdict.kind) == ("failed", told)
    assert verdict.rank == (None if death_kind is None else 1)


def test_verdict_has_the_ranks_last_lines_but_for_wrong_input() -> None:
    assert "its last line" in _verdict_of(diagnosis("program", "exception")).text
    assert _verdict_of(diagnosis("input", "input")).text == "why"


def gang_error(**failures: Exception) -> ray.train.WorkerGroupError:
    return ray.train.WorkerGroupError("it failed", {int(name[1:]): error for name, error in failures.items()})


class HealthCheckFailed(Exception):
    """As Ray Train tells of a dead worker."""

    health_check_failure = ActorDiedError()


def test_verdict_without_a_word_from_rank_0_is_another_supervisors_diagnosis() -> None:
    error = gang_error(r1=GangFailed(diagnosis("infrastructure", "node")))
    assert _verdict_of_ray(error) == _verdict_of(diagnosis("infrastructure", "node"))


def test_verdict_without_a_word_names_the_worker_that_is_dead() -> None:
    error = gang_error(r0=OSError("other"), r2=HealthCheckFailed("A worker is dead."))
    verdict = _verdict_of_ray(error)
    assert (verdict.kind, verdict.rank) == ("loss", 2)
    assert verdict.text.startswith("lost the supervisor of rank 2: ")


def test_verdict_without_a_word_is_the_loss_of_rank_0_where_only_others_failed() -> None:
    error = gang_error(r1=GangFailed(diagnosis("infrastructure", None)))
    assert (_verdict_of_ray(error).kind, _verdict_of_ray(error).rank) == ("loss", 0)


def test_verdict_of_an_error_in_a_supervisor_is_that_error() -> None:
    assert _verdict_of_ray(gang_error(r0=OSError("no space left"))) == Verdict(
        "failed", "infrastructure", "Ray Train gave up: no space left", 0
    )


def test_verdict_blames_the_worker_with_an_error_of_its_own() -> None:
    error = gang_error(r1=GangFailed(diagnosis("infrastructure", None)), r2=OSError("no route to host"))
    assert _verdict_of_ray(error) == Verdict("failed", "infrastructure", "Ray Train gave up: no route to host", 2)


def test_verdict_of_a_gang_that_never_started_is_told_apart() -> None:
    error = ray.train.ControllerError(TimeoutError("no room within 30 s"))
    assert _verdict_of_ray(error) == Verdict(
        "failed", "placement", "Ray could not start the workers: no room within 30 s"
    )


@pytest.mark.parametrize(("device", "keeps_memory"), [("cpu", True), ("cuda", False)])
def test_ranks_on_a_cpu_keep_what_they_free(device: str, keeps_memory: bool) -> None:
    spec = make_gang_spec("mill", "out", {"device": device}, "auto", 3, "secret")
    assert spec.keeps_memory == keeps_memory


class FailingTrainer:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def fit(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (gang_error(r0=OSError("lost")), []),
        (ray.train.ControllerError(ActorDiedError()), []),
        (ray.train.ControllerError(TypeError("no such argument")), ["TypeError"]),
        (AttributeError("no such field"), ["AttributeError"]),
    ],
)
def test_fit_that_fails_by_a_fault_of_this_program_is_told_with_its_trace(
    error: Exception, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="cluster.gang"):
        assert _fit(FailingTrainer(error)) is error  # type: ignore[arg-type]
    assert [type(r.exc_info[1]).__name__ for r in caplog.records if r.exc_info and r.exc_info[1]] == told
