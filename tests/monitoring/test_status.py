"""How a run is, from its journal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from monitoring.history import Fence
from monitoring.journal import Record
from monitoring.status import RunStatus, run_status, to_dict, to_text
from tests.monitoring.journals import START_TIME, TOKENS_PER_STEP, end, evaluation, start, step

NOW = START_TIME + 1010


def status_of(*records: Record, driver: str | None = None, now: float = NOW, fence: Fence | None = None) -> RunStatus:
    return run_status("demo", "id", list(records), fence or Fence(), driver=driver, now=now)


def running(steps: int = 6) -> list[Record]:
    saved: Record = {"event": "checkpoint", "attempt": 1, "time": START_TIME + 1004.1, "step": 4, "seconds": 0.1}
    return [start(), *[step(i) for i in range(1, steps + 1)], evaluation(4, 6.5), saved]


def test_status_running_run_says_how_far_it_is() -> None:
    status = status_of(*running(), driver="process 7 on mill")
    assert (status.state, status.detail) == ("running", "by process 7 on mill")
    assert (status.step, status.total_steps, status.tokens) == (6, 10, 6 * TOKENS_PER_STEP)
    assert (status.loss, status.val_loss, status.checkpoint_step) == (9.0 - 0.06, 6.5, 4)
    assert status.tokens_per_second == 3003.5
    assert status.seconds_left == pytest.approx(4 * TOKENS_PER_STEP / 3003.5)
    assert (status.attempts, status.quiet_seconds) == (1, 4.0)


@pytest.mark.parametrize(
    ("seconds", "step_seconds", "state"), [(59, 0.5, "running"), (61, 0.5, "stalled"), (61, 5.0, "running")]
)
def test_status_silence_is_judged_by_the_pace_of_the_run(seconds: float, step_seconds: float, state: str) -> None:
    records = [start(), step(1, step_seconds=step_seconds)]
    assert status_of(*records, driver="process 7", now=START_TIME + 1001 + seconds).state == state


@pytest.mark.parametrize(
    ("records", "state", "detail"),
    [
        ([], "stopped", "it has not trained yet"),
        (running(), "failed", "its driver ended without a word"),
        ([*running(), end(6, status="stopped")], "stopped", "goes on from it"),
        ([*running(10), end(10)], "finished", ""),
        ([*running(10), end(10), start(2, 6)], "failed", "without a word"),
    ],
)
def test_status_of_a_run_that_nobody_drives(records: list[Record], state: str, detail: str) -> None:
    status = status_of(*records)
    assert status.state == state
    assert detail in status.detail
    assert status.seconds_left is None


def test_status_before_the_first_attempt_is_preparing() -> None:
    status = status_of(driver="process 7")
    assert (status.state, status.total_steps, status.quiet_seconds) == ("preparing", None, None)
    assert "step" in to_text(status)


def test_status_failed_run_names_what_failed() -> None:
    death: Record = {"event": "rank_dead", "attempt": 1, "time": START_TIME + 1007, "rank": 1, "node": "n1"}
    records = [*running(), death | {"reason": "killed by signal 9"}, end(6, status="failed")]
    status = status_of(*records)
    assert (status.state, status.detail) == ("failed", "killed by signal 9")
    assert "attempt 1 after step 6: rank 1 on n1: killed by signal 9" in to_text(status)


def test_status_attempts_that_left_no_record_are_counted_and_outrun_ones_do_not_speak() -> None:
    fence = Fence({1: START_TIME + 1000, 2: START_TIME + 1003, 3: START_TIME + 1004})
    status = status_of(*running(), driver="process 7", fence=fence)
    assert (status.attempts, status.step, status.checkpoint_step) == (3, 2, None)


def test_status_nan_loss_is_null_in_json_and_text_has_a_line_for_each_thing() -> None:
    status = status_of(*running(), step(7, loss=None, loss_hex="nan"), driver="process 7 on mill")
    values: dict[str, Any] = json.loads(json.dumps(to_dict(status), allow_nan=False))
    assert (values["loss"], values["step"], values["goodput"]["steps"]) == (None, 7, 7)
    labels = [line.split()[0] for line in to_text(status).splitlines()]
    assert labels == ["run", "state", "step", "tokens", "loss", "speed", "checkpoint", "attempts", "goodput"]
    assert "49.0% of 0:07 in steps that count" in to_text(status)
