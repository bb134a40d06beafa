from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.bad_numbers import (
    FEWEST_LOSSES,
    MOST_OVERFLOWS,
    MOST_RETURNS,
    MOST_ROLLBACKS,
    MOST_SKIPS,
    WINDOW,
    Bad,
    Numbers,
    Policy,
    Watch,
    action,
    back_at,
    judge,
    left_out,
    loss_limit,
)


def good(step: int, loss: float = 2.0) -> Numbers:
    return Numbers(step, loss, grad_norm=1.0, is_applied=True, is_scaled=False)


def watch_of(losses: list[float]) -> Watch:
    watch = Watch()
    for step, loss in enumerate(losses, start=1):
        watch, bad = judge(watch, good(step, loss), math.inf)
        assert bad is None
    return watch


@pytest.mark.parametrize(
    ("numbers", "limit", "bad"),
    [
        (good(4), math.inf, None),
        (good(4, math.nan), math.inf, "loss"),
        (good(4, math.inf), math.inf, "loss"),
        (good(4, 2.5), 2.4, "spike"),
        (Numbers(4, 2.0, math.inf, is_applied=False, is_scaled=False), math.inf, "grad_norm"),
        (Numbers(4, 2.0, math.inf, is_applied=False, is_scaled=True), math.inf, None),
        (Numbers(4, math.nan, math.inf, is_applied=False, is_scaled=True), math.inf, "loss"),
    ],
)
def test_judge_finds_what_is_bad(numbers: Numbers, limit: float, bad: str | None) -> None:
    _, found = judge(Watch(), numbers, limit)
    assert (found.what if found else None) == bad


def test_judge_bears_the_loss_scales_search_but_not_for_ever() -> None:
    watch = Watch()
    overflow = Numbers(1, 2.0, math.inf, is_applied=False, is_scaled=True)
    for _ in range(MOST_OVERFLOWS):
        watch, bad = judge(watch, overflow, math.inf)
        assert bad is None
    _, bad = judge(watch, overflow, math.inf)
    assert bad is not None
    assert bad.text() == "the loss scale must find its place, but 65 updates in a row overflowed"
    assert action(Watch(tries=1), "skip", bad) == "stop"
    watch, _ = judge(watch, good(2), math.inf)
    assert watch.overflows == 0


@given(st.lists(st.floats(0.5, 10.0), min_size=FEWEST_LOSSES, max_size=3 * WINDOW), st.floats(1.0, 20.0))
def test_loss_limit_lies_above_the_median_and_looks_at_the_newest_losses_alone(
    losses: list[float], deviations: float
) -> None:
    limit = loss_limit(watch_of(losses), deviations)
    newest = sorted(losses[-WINDOW:])
    assert newest[(len(newest) - 1) // 2] < limit
    assert limit == loss_limit(watch_of(losses[-WINDOW:]), deviations)
    assert limit <= loss_limit(watch_of(losses), deviations + 1)


def test_loss_limit_by_hand() -> None:
    losses = [1.0, 3.0] * (FEWEST_LOSSES // 2)
    assert loss_limit(watch_of(losses), 2.0) == pytest.approx(2.0 + 2.0 * 1.4826)
    assert loss_limit(watch_of([2.0] * FEWEST_LOSSES), 5.0) == pytest.approx(2.1)  # 1% of the median at least
    assert loss_limit(watch_of(losses[:-1]), 2.0) == math.inf
    assert loss_limit(watch_of(losses), None) == math.inf


@given(st.lists(st.floats(0.5, 10.0), min_size=1, max_size=30), st.integers(0, 40))
def test_judge_of_bad_numbers_leaves_the_believed_losses_as_they_were(losses: list[float], step: int) -> None:
    watch = watch_of(losses)
    after, bad = judge(watch, good(step, math.nan), math.inf)
    assert bad is not None
    assert after.losses == watch.losses
    assert all(at <= step for at, _ in back_at(after, step).losses)


@pytest.mark.parametrize(("policy", "most"), [("skip", MOST_SKIPS), ("rollback", MOST_ROLLBACKS), ("stop", 0)])
def test_action_gives_up_after_so_many_tries_at_one_step(policy: Policy, most: int) -> None:
    """Steps before it that are replayed do not count as getting past it."""
    watch, actions = watch_of([2.0] * 5), []
    for _ in range(most + 1):
        watch, bad = judge(watch, good(9, math.nan), math.inf)
        assert bad is not None
        actions.append(action(watch, policy, bad))
        for replayed in (6, 7, 8):
            watch, _ = judge(watch, good(replayed), math.inf)
    assert actions == [policy] * most + ["stop"]
    watch, _ = judge(watch, good(9), math.inf)
    assert watch.tries == 0


def test_left_out_is_the_step_or_for_a_rollback_from_a_spike_the_last_few() -> None:
    spans = [(0, 8), (8, 16), (16, 24), (24, 33)]
    spike, nan = Bad("spike", 9.0, 3.0), Bad("loss", math.nan)
    assert left_out(spike, spans, "rollback") == (8, 33)
    assert left_out(spike, spans, "skip") == (24, 33)
    assert left_out(nan, spans, "rollback") == (24, 33)
    assert left_out(spike, spans[-1:], "rollback") == (24, 33)


def test_action_gives_up_where_going_back_to_one_place_has_not_helped_ten_times() -> None:
    """Whatever the steps are at which the numbers turn bad again."""
    watch, actions = watch_of([2.0] * 5), []
    for number in range(MOST_RETURNS + 1):
        watch, bad = judge(watch, good(9 + number % 4, math.nan), math.inf)
        assert bad is not None
        actions.append(action(watch, "rollback", bad))
        watch = back_at(watch, 5)
    assert actions == ["rollback"] * MOST_RETURNS + ["stop"]
