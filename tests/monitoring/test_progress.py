"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from monitoring.progress import ProgressView
from monitoring.units import duration
from tests.monitoring.journals import START_TIME, TOKENS_PER_STEP, evaluation, start, step


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def plain_view(clock: Clock, total_steps: int = 10) -> tuple[ProgressView, io.StringIO]:
    text = io.StringIO()
    return ProgressView(total_steps * TOKENS_PER_STEP, Console(file=text, width=40), False, clock), text


def test_plain_lines_come_at_first_every_ten_seconds_and_at_the_end() -> None:
    clock = Clock()
    view, text = plain_view(clock, total_steps=100)
    with view:
        for number in range(1, 31):  # one step a second
            view.feed([step(number)])
            clock.now += 1.0
    lines = text.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1", "11", "21", "30"]


def test_plain_line_says_tokens_losses_speed_and_time_left() -> None:
    view, text = plain_view(Clock())
    view.feed([start(), step(1, tokens_per_second=2048.0), evaluation(1, 6.25)])
    assert text.getvalue().splitlines()[-1] == (
        "step 1  2,048/20,480 tokens (10%)  loss 8.990  val loss 6.250  2,048 tokens/s  0:09 left"
    )


def test_plain_lines_hold_no_control_characters_even_where_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    view, text = plain_view(Clock())
    common = {"attempt": 2, "time": START_TIME}
    with view:
        view.feed([step(1), {"event": "rank_dead", "rank": 1, "node": "n", "reason": "\x1b[31mbad\nline", **common}])
        view.feed([{"event": "restart", "seconds": 0.71, "resumed_step": 4, **common}, start(3, 1200)])
    lines = text.getvalue().splitlines()
    assert all(line.isprintable() for line in lines)
    assert lines[1:4] == [
        "rank 1 on n died:  [31mbad line",
        "restarted in 0.7 s from step 4",
        "attempt 3 goes on from step 1,200",
    ]


def test_plain_bad_shard_is_told_once_however_many_of_its_sequences_are_left_out() -> None:
    view, text = plain_view(Clock())
    common = {"event": "excluded", "attempt": 1, "time": START_TIME, "reason": "Block 000000 is damaged."}
    with view:
        view.feed([{**common, "start": n, "end": n + 1, "shard": f"train-0000{n % 2}.tar"} for n in range(6)])
    assert text.getvalue().splitlines() == [
        f"warning: leaving out what cannot be read of train-0000{n}.tar: Block 000000 is damaged." for n in range(2)
    ]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"event": "gang_restart", "reason": "node n1 is lost"}, "starting the workers again: node n1 is lost"),
        ({"event": "resize", "from_world": 2, "to_world": 1}, "going on with 1 workers instead of 2"),
        ({"event": "fenced", "newest": 3}, "attempt 2 was ended: attempt 3 has taken its place"),
        (
            {"event": "checkpoint_failed", "step": 5, "reason": "/r: no space"},
            "warning: no checkpoint of step 5: /r: no space",
        ),
        ({"event": "checkpoint_late", "step": 5}, "warning: the checkpoint of step 5 is late, its storage is slow"),
        (
            {"event": "bad_numbers", "step": 5, "what": "loss", "value": None, "value_hex": "nan", "action": "skip"},
            "warning: step 5: loss nan; skip",
        ),
        (
            {"event": "slow_rank", "rank": 1, "node": "n", "seconds": 2.0, "others_seconds": 0.5},
            "warning: rank 1 on n is slow: 2.0 s a step, the others 0.5 s",
        ),
        ({"event": "of a later version"}, None),
    ],
)
def test_plain_troubles_are_told_in_a_line_each(event: dict[str, object], line: str | None) -> None:
    view, text = plain_view(Clock())
    with view:
        view.feed([{**event, "attempt": 2, "time": START_TIME}])
    assert text.getvalue().splitlines() == ([] if line is None else [line])


def test_plain_close_twice_says_the_last_state_once() -> None:
    view, text = plain_view(Clock())
    view.feed([step(1)])
    view.close()
    view.close()
    assert len(text.getvalue().splitlines()) == 1


def test_no_records_nothing_is_shown() -> None:
    view, text = plain_view(Clock())
    with view:
        view.feed([])
    assert text.getvalue() == ""


def test_terminal_shows_a_bar_with_the_numbers() -> None:
    text = io.StringIO()
    console = Console(file=text, width=160, force_terminal=True)
    with ProgressView(10 * TOKENS_PER_STEP, console, clock=Clock()) as view:
        view.feed([step(5), evaluation(5, 6.25)])
    assert "\x1b" in text.getvalue()
    assert "10,240/20,480 tokens (50%)  loss 8.950  val loss 6.250" in text.getvalue()


@pytest.mark.parametrize(("seconds", "expected"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")])
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
