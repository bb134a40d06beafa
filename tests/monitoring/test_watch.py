"""The live page: its values, and a frame of 80 columns."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from monitoring.columns import columns_of
from monitoring.history import Fence
from monitoring.journal import Record
from monitoring.watch import Frame, Watched, facts, watched
from tests.monitoring.journals import START_TIME, end, evaluation, start, step

NOW = START_TIME + 2015


def event(name: str, time: float, attempt: int, **fields: Any) -> Record:
    return {"event": name, "attempt": attempt, "time": START_TIME + time, **fields}


def restarted_run() -> list[Record]:
    death = {"rank": 1, "node": "mill-2", "reason": "killed by signal 9\x1b[31m", "detected_seconds": 0.1}
    return [
        start(nodes=["mill-1", "mill-2"], max_steps=100, max_tokens=204_800),
        *[step(i) for i in range(1, 9)],
        evaluation(5, 8.5),
        event("checkpoint", 1006.0, 1, step=5, seconds=1.5, stall_seconds=0.2),
        event("rank_dead", 1009.0, 1, **death),
        start(2, 6, nodes=["mill-1", "mill-1"], max_steps=100, max_tokens=204_800),
        *[step(i, 2) for i in range(7, 11)],
        event("rank_times", 2010.5, 2, step=10, seconds=[0.4, 0.9], nodes=["mill-1", "mill-1"]),
    ]


def watched_run(*records: Record, driver: str | None = "process 7 on mill-1") -> Watched:
    return watched("demo", "id-1", columns_of(records), Fence(), driver=driver, now=NOW)


def drawn(run: Watched, width: int = 80) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=False).print(Frame(run))
    return text.getvalue().splitlines()


def test_watched_restarted_run_by_its_values() -> None:
    run = watched_run(*restarted_run())
    assert (run.status.state, run.status.step, run.status.loss) == ("running", 10, 9.0 - 0.1)
    assert run.steps["step"].tolist() == list(range(1, 11))
    assert run.val_losses == ((5 * 2048.0, 8.5),)
    assert (run.restarts, len(run.recoveries)) == (1, 1)
    assert [(save.step, save.seconds, save.age_seconds) for save in run.checkpoints] == [(5, 1.5, 1009.0)]
    assert run.nodes == (("mill-1", 2),)
    assert run.status.goodput.replayed_steps == 2
    assert run.status.attempts == 2


def test_watched_values_are_those_of_the_status_for_a_long_run() -> None:
    steps = [step(i) for i in range(1, 301)]
    run = watched_run(start(max_steps=400, max_tokens=400 * 2048), *steps, end(300, status="stopped"), driver=None)
    assert (run.status.state, run.status.step, run.status.goodput.steps) == ("stopped", 300, 300)
    assert run.status.tokens == 300 * 2048
    assert run.status.seconds_left is None


def test_facts_tell_each_thing_once() -> None:
    found = {label: text.plain for label, text in facts(watched_run(*restarted_run()), 60)}
    assert found["loss"] == "8.9000 train, 8.5000 held out"
    assert found["tokens/s"].startswith("3,00")
    ratio, bar, kinds = found["goodput"].splitlines()
    assert ratio.endswith("of 16:50")
    assert bar == "█" * 60
    assert "step 0.5%" in kinds and "restart 9" in kinds
    assert found["restarts"].startswith("1, 1 failures, 2 steps run again, the last recovered in ")
    assert found["checkpoints"] == "1; newest of step 5, 16:49 ago, written in 1.5 s"
    assert found["nodes"] == "mill-1 (2)"
    assert found["slowest"] == "rank 1 on mill-1: 0.900 s a step by itself, the others 0.400 s"
    assert found["failure"] == "attempt 1 after step 8: killed by signal 9 [31m"


def test_frame_of_80_columns_fits_and_holds_the_page() -> None:
    lines = drawn(watched_run(*restarted_run()))
    assert {len(line) for line in lines} == {80}
    assert len(lines) <= 40
    text = "\n".join(lines)
    for part in ("demo (id-1): running by process 7", "step 10 of 100", "(10%)", "1:01 left", "nodes", "mill-1 (2)"):
        assert part in text
    assert "\x1b" not in text
    chart = lines[lines.index(next(line for line in lines if "loss: training" in line)) + 1 :][:10]
    assert any("o" in line.split("│")[1][9:] for line in chart[:9])
    assert "20,480 tokens" in chart[9]


@pytest.mark.parametrize("width", [40, 60, 132, 200])
def test_frame_of_other_widths_fits(width: int) -> None:
    assert {len(line) for line in drawn(watched_run(*restarted_run()), width)} == {width}


def test_frame_of_a_run_that_has_not_begun_says_so() -> None:
    text = "\n".join(drawn(watched_run()))
    assert "preparing" in text
    assert "no steps yet" in text
    assert text.count("none yet") == 4
