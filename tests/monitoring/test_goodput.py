"""Where the time of made-up runs went."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.goodput import CAUSES, Goodput, goodput
from monitoring.history import Fence
from monitoring.journal import Record
from tests.monitoring.journals import start, step


def at(time: float, record: Record) -> Record:
    return {**record, "time": time}


def event(name: str, time: float, attempt: int = 1, **fields: Any) -> Record:
    return {"event": name, "attempt": attempt, "time": time, **fields}


def one_second(number: int, time: float, attempt: int = 1) -> Record:
    """A step of a second, a tenth of it for its data."""
    return step(number, attempt, time=time, step_seconds=1.0, data_wait_seconds=0.1)


def told(spent: Goodput) -> dict[str, float]:
    assert sum(spent.microseconds.values()) == spent.wall_microseconds
    assert sum(spent.seconds.values()) == pytest.approx(spent.wall_seconds)
    return {cause: round(seconds, 6) for cause, seconds in spent.seconds.items() if abs(seconds) > 1e-9}


def test_goodput_undisturbed_run_by_cause() -> None:
    records = [
        at(103.0, start(load_seconds=0.5)),
        *[one_second(i, 103.0 + i) for i in range(1, 6)],
        event("eval", 110.0, step=5, seconds=2.0),
        event("checkpoint", 110.5, step=5, seconds=5.0, stall_seconds=0.3),
        event("end", 111.0, status="finished", step=5),
    ]
    spent = goodput(records, Fence({1: 100.0}))
    assert told(spent) == {
        **{"steps": 4.5, "data_wait": 0.5, "evaluation": 2.0, "save_stalls": 0.3},
        **{"load": 0.5, "init": 2.5, "borders": 0.7},
    }
    assert spent.ratio == pytest.approx(4.5 / 11)
    assert (spent.wall_seconds, spent.steps, spent.replayed_steps, spent.failures) == (11.0, 5, 0, ())
    assert spent.world_sizes == (2,)


def failing_run() -> list[Record]:
    return [
        at(101.0, start()),
        *[one_second(i, 101.0 + i) for i in range(1, 6)],
        event("rank_dead", 107.2, rank=1, node="n", reason="killed by signal 9", kind="signal", detected_seconds=0.1),
        at(107.7, start(2, 3)),
        *[one_second(i, 105.0 + i, 2) for i in range(4, 7)],
        event("restart", 109.1, 2, seconds=2.0, resumed_step=3),
        event("end", 111.0, 2, status="finished", step=6),
    ]


def test_goodput_rank_killed_detection_recovery_and_replay() -> None:
    spent = goodput(failing_run(), Fence({1: 100.0, 2: 107.15}))
    assert told(spent) == {
        # Steps 4 and 5 of the first attempt, and the second from its last record to 0.1 s before the word.
        **{"steps": 5.4, "data_wait": 0.6, "replayed": 3.0, "init": 1.0, "detection": 0.1, "recovery": 0.6},
        "borders": 0.3,
    }
    assert spent.replayed_steps == 2
    [failure] = spent.failures
    assert (failure.attempt, failure.kind, failure.rank, failure.node, failure.step) == (1, "signal", 1, "n", 5)
    assert failure.detection_seconds == pytest.approx(0.1)
    assert failure.recovery_seconds == pytest.approx(1.9)
    assert failure.replayed_steps == 2


def test_goodput_without_the_moment_of_the_failure_detection_goes_from_the_last_record() -> None:
    records = [{key: value for key, value in record.items() if key != "detected_seconds"} for record in failing_run()]
    spent = goodput(records, Fence({1: 100.0, 2: 107.15}))
    assert told(spent)["detection"] == pytest.approx(1.1)
    assert told(spent)["replayed"] == 2.0


def test_goodput_what_an_outrun_attempt_wrote_changes_nothing() -> None:
    fence = Fence({1: 100.0, 2: 107.15}, {2: 3})
    late = [one_second(i, 101.5 + i) for i in range(6, 30)]
    assert goodput([*failing_run(), *late], fence) == goodput(failing_run(), fence)


def test_goodput_driver_killed_is_a_failure_without_a_word() -> None:
    records = [at(100.0, start()), one_second(1, 101.0), at(121.0, start(2, 0)), one_second(1, 122.0, 2)]
    spent = goodput(records, Fence({1: 100.0, 2: 120.0}))
    assert told(spent) == {"steps": 0.9, "data_wait": 0.1, "replayed": 1.0, "recovery": 20.0}
    [failure] = spent.failures
    assert (failure.kind, failure.recovery_seconds, failure.replayed_steps) == ("silence", 21.0, 1)
    # Its successor, which has not written yet, tells of it too.
    assert [f.kind for f in goodput(records[:2], Fence({1: 100.0, 2: 120.0})).failures] == ["silence"]


def test_goodput_supervisor_killed_waits_for_room_and_attempts_that_never_trained() -> None:
    records = [
        at(100.0, start()),
        one_second(1, 101.0),
        event("resize", 108.0, from_world=2, to_world=1, step=1),  # it goes on smaller, which nobody asked for
        event("gang_restart", 108.0, kind="supervisor", reason="lost", after_seconds=5.0),
        event("rank_dead", 110.0, 2, rank=0, node="n", reason="died at once", kind="signal"),
        at(115.0, start(3, 1)),
        one_second(2, 116.0, 3),
    ]
    spent = goodput(records, Fence({1: 100.0, 2: 109.0, 3: 112.0}))
    assert told(spent) == {"steps": 1.8, "data_wait": 0.2, "detection": 2.0, "waiting": 5.0, "recovery": 7.0}
    assert [(failure.attempt, failure.reason) for failure in spent.failures] == [(1, "lost"), (2, "died at once")]
    assert spent.failures[0].recovery_seconds == pytest.approx(13.0)


def test_goodput_stop_on_request_is_no_time_of_the_run_and_a_resize_is() -> None:
    stopped = [at(100.0, start()), one_second(1, 101.0), event("end", 102.0, status="stopped", step=1)]
    again = [at(1003.0, start(2, 1)), one_second(2, 1004.0, 2)]
    spent = goodput([*stopped, *again], Fence({1: 100.0, 2: 1000.0}))
    assert told(spent) == {"steps": 1.8, "data_wait": 0.2, "init": 3.0, "borders": 1.0}
    assert (spent.wall_seconds, spent.failures) == (6.0, ())

    restarted = event("gang_restart", 950.0, kind="made_way", reason="the gang made way", after_seconds=848.0)
    resized = [*stopped[:2], event("resize", 950.0, from_world=2, to_world=1, step=1), restarted]
    after = [at(1003.0, start(2, 1, world_size=1)), one_second(2, 1004.0, 2)]
    spent = goodput([*resized, *after], Fence({1: 100.0, 2: 1000.0}))
    assert told(spent)["resize"] == 902.0
    assert (spent.resizes, spent.failures, spent.world_sizes) == (((2, 1),), (), (2, 1))


def test_goodput_preemption_is_no_stop_and_no_failure() -> None:
    records = [
        at(100.0, start()),
        event("end", 102.0, status="stopped", step=1),
        event("gang_restart", 102.5, kind="preemption", reason="drained"),
        at(110.0, start(2, 1)),
    ]
    spent = goodput(records, Fence({1: 100.0, 2: 109.0}))
    assert told(spent) == {"borders": 2.0, "resize": 8.0}
    assert spent.failures == ()


def test_goodput_bad_step_is_lost_work_and_a_change_of_stages_a_restart() -> None:
    records = [
        at(100.0, start()),
        one_second(1, 101.0),
        event("bad_numbers", 104.0, step=2, what="loss", value=None, action="skip", resumed_step=1),
        one_second(2, 105.0),
        event("stage", 109.0, step=2, stage=1),
        one_second(3, 110.0),
    ]
    spent = goodput(records, Fence({1: 100.0}))
    assert told(spent) == {"steps": 2.7, "data_wait": 0.3, "replayed": 3.0, "init": 4.0}
    assert spent.microseconds["lost work"] == 3_000_000
    assert spent.microseconds["restart"] == 4_000_000


def test_goodput_run_seconds_leave_out_the_pauses() -> None:
    records = [
        at(100.0, start()),
        event("end", 102.0, status="stopped", step=1),
        at(1003.0, start(2, 1)),
        one_second(2, 1004.0, 2),
    ]
    spent = goodput(records, Fence({1: 100.0, 2: 1000.0}))
    assert spent.pauses == ((102.0, 1000.0),)
    assert spent.run_seconds(np.array([100.0, 101.0, 102.0, 500.0, 1004.0])).tolist() == [0.0, 1.0, 2.0, 2.0, 6.0]


def test_goodput_run_that_gave_up_waits_for_someone_to_start_it_again() -> None:
    records = [
        at(100.0, start()),
        one_second(1, 101.0),
        event("rank_dead", 102.0, rank=0, node="n", reason="boom"),
        event("end", 103.0, status="failed", step=1),
        at(502.0, start(2, 1)),
    ]
    spent = goodput(records, Fence({1: 100.0, 2: 500.0}))
    assert told(spent) == {
        **{"steps": 0.9, "data_wait": 0.1, "detection": 1.0, "recovery": 1.0, "waiting": 397.0, "init": 2.0},
    }
    assert [failure.reason for failure in spent.failures] == ["boom"]
    over = goodput(records[:4], Fence({1: 100.0}))
    assert told(over) == {"steps": 0.9, "data_wait": 0.1, "detection": 1.0, "recovery": 1.0}


def queued(since: float, until: float, attempt: int = 1, told: float | None = None) -> Record:
    return event("queued", until if told is None else told, attempt, since=since, seconds=until - since)


def test_goodput_time_in_line_before_the_first_attempt_is_queue_and_the_preparation_after_it_none_of_the_run_s() -> (
    None
):
    records = [queued(40.0, 70.0), at(102.0, start()), one_second(1, 103.0)]
    spent = goodput(records, Fence({1: 100.0}))
    assert told(spent) == {"in_line": 30.0, "init": 2.0, "steps": 0.9, "data_wait": 0.1}
    assert spent.microseconds["queue"] == 30_000_000
    assert (spent.wall_seconds, spent.ratio, spent.pauses) == (33.0, pytest.approx(0.9 / 33), ())
    # Losses of two runs at the same hours: the line before the first attempt shifts no curve.
    assert spent.run_seconds(np.array([100.0, 103.0])).tolist() == [0.0, 3.0]


def test_goodput_submission_that_a_second_driver_tells_of_again_counts_once() -> None:
    records = [queued(40.0, 70.0), at(100.0, start()), queued(40.0, 70.0, 2, told=101.0), at(110.0, start(2))]
    assert told(goodput(records, Fence({1: 100.0, 2: 109.0}))) == {"in_line": 30.0, "recovery": 10.0}


def test_goodput_run_that_still_prepares_after_its_line_has_waited_and_done_nothing_else() -> None:
    assert told(goodput([queued(40.0, 70.0)])) == {"in_line": 30.0}


def test_goodput_time_in_line_of_a_stopped_run_s_next_submission_is_queue_amid_a_pause() -> None:
    records = [
        at(100.0, start()),
        event("end", 102.0, status="stopped", step=1),
        queued(500.0, 900.0, 2),
        at(1003.0, start(2, 1)),
        one_second(2, 1004.0, 2),
    ]
    spent = goodput(records, Fence({1: 100.0, 2: 1000.0}))
    assert told(spent) == {"borders": 2.0, "in_line": 400.0, "init": 3.0, "steps": 0.9, "data_wait": 0.1}
    assert spent.pauses == ((102.0, 500.0), (500.0, 900.0), (900.0, 1000.0))
    assert spent.run_seconds(np.array([102.0, 700.0, 1004.0])).tolist() == [2.0, 2.0, 6.0]
    assert spent.failures == ()


def test_goodput_time_in_line_takes_no_time_from_an_attempt_that_ran() -> None:
    """A clock that is an hour off, or an event that is no event of ours."""
    records = [at(100.0, start()), one_second(1, 101.0), queued(0.0, 101.0, told=100.5), event("queued", 100.6)]
    assert told(goodput(records, Fence({1: 100.0}))) == {"in_line": 100.0, "steps": 0.9, "data_wait": 0.1}


def test_goodput_counts_what_was_left_out() -> None:
    records = [
        at(100.0, start()),
        event("excluded", 100.0, start=4, end=6, shard="a", reason="cut"),
        event("bad_numbers", 100.0, step=3, what="loss", value=None, action="skip", excluded=[[6, 8]]),
        event("checkpoint_failed", 100.0, step=3, reason="disk full"),
    ]
    spent = goodput(records)
    assert (spent.excluded_sequences, spent.bad_steps, spent.failed_saves) == (2, 1, 1)
    assert (spent.ratio, spent.wall_seconds) == (None, 0.0)
    assert goodput([], Fence({1: 100.0})).wall_seconds == 0.0
    assert goodput([]).seconds == dict.fromkeys(CAUSES, 0.0)


times = st.floats(0.0, 100.0)
seconds = st.floats(-1.0, 20.0)


@st.composite
def any_record(draw: st.DrawFn) -> Record:
    attempt, time, number = draw(st.integers(1, 5)), draw(times), draw(st.integers(1, 9))
    names = ["step", "start", "eval", "checkpoint", "rank_dead", "gang_restart", "restart", "end", "stage"]
    match draw(st.sampled_from([*names, "bad_numbers", "queued"])):
        case "step":
            return step(number, attempt, time=time, step_seconds=draw(seconds), data_wait_seconds=draw(seconds))
        case "start":
            return start(attempt, number - 1, time=time, load_seconds=draw(seconds))
        case "end":
            return event("end", time, attempt, status=draw(st.sampled_from(["finished", "stopped", "failed"])))
        case "gang_restart":
            return event("gang_restart", time, attempt, kind="node", reason="", after_seconds=draw(seconds))
        case "rank_dead":
            return event("rank_dead", time, attempt, rank=0, node="n", reason="", detected_seconds=draw(seconds))
        case "bad_numbers":
            return event("bad_numbers", time, attempt, step=number, resumed_step=draw(st.integers(0, 9)))
        case "queued":
            return event("queued", time, attempt, since=draw(times), seconds=draw(seconds))
        case name:
            return event(name, time, attempt, step=number, seconds=draw(seconds))


def microseconds_in_line(records: list[Record], before: float) -> int:
    """Of the time before that moment; microsecond by microsecond would take too long, so border by border."""
    found = [r for r in records if r.get("event") == "queued"]
    spans = [(round(r["since"] * 1e6), round((r["since"] + r["seconds"]) * 1e6)) for r in found]
    end = round(before * 1e6)
    borders = sorted({end, *(min(border, end) for span in spans for border in span)})
    between = [(a, b) for a, b in pairwise(borders) if any(since <= a and b <= until for since, until in spans)]
    return sum(b - a for a, b in between)


@given(st.lists(any_record(), max_size=30), st.dictionaries(st.integers(1, 6), times, max_size=6))
def test_goodput_any_journal_no_cause_is_negative_and_the_sum_is_the_wall_time(
    records: list[Record], taken: dict[int, float]
) -> None:
    spent = goodput(records, Fence(taken))
    assert all(amount >= 0.0 for amount in spent.seconds.values())
    assert sum(spent.microseconds.values()) == spent.wall_microseconds
    assert set(spent.microseconds) == {
        "step", "data wait", "evaluation", "save", "restart", "lost work", "queue"
    }  # fmt: skip
    assert sum(spent.seconds.values()) == pytest.approx(spent.wall_seconds)
    assert spent.ratio is None or 0.0 <= spent.ratio <= 1.0
    kept = [record for record in records if Fence(taken).lets_pass(record)]
    if kept and not any(record.get("event") == "end" for record in kept):  # then no time is left out
        first = {n: min(r["time"] for r in kept if r["attempt"] == n) for n in {r["attempt"] for r in kept}}
        began = min((first | taken).values())
        newest = max(round(r["time"] * 1e6) for r in kept)
        assert spent.wall_microseconds == max(0, newest - round(began * 1e6)) + microseconds_in_line(kept, began)
    for failure in spent.failures:
        assert failure.detection_seconds >= 0.0
        assert failure.recovery_seconds is None or failure.recovery_seconds >= 0.0
