from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.restarts import (
    HOLD_SECONDS,
    IDLE_GANGS,
    LONGEST_HOLD_SECONDS,
    SAY_SECONDS,
    SETTLE_SECONDS,
    Action,
    Capacity,
    Event,
    Finish,
    GangEnded,
    GiveUp,
    Limits,
    MakeWay,
    RestartState,
    Say,
    Start,
    StopAsked,
    gangs_without_step,
)

LIMITS = Limits(min_workers=2, max_workers=2, max_failures=10, max_preemptions=2, wait_seconds=600.0)
ELASTIC = replace(LIMITS, min_workers=1, max_workers=3)
NOWHERE: frozenset[str] = frozenset()


class Run:
    """A policy with a clock: each event comes `after` seconds after the one before."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.state = RestartState(limits)
        self.now = 0.0

    def tell(self, event: Event, after: float = 0.0) -> tuple[Action, ...]:
        self.now += after
        self.state, actions = self.state.handle(event, self.now)
        return actions

    def started(self, free: dict[str, int], after: float = 0.0) -> Start:
        """The gang that is started on what is free."""
        [start] = self.tell(Capacity(free), after)
        assert isinstance(start, Start)
        return start

    def running(self, placed: str = "ab") -> Run:
        """With a gang on the nodes of those names, and nothing else free."""
        self.started(dict.fromkeys(placed, 1), SETTLE_SECONDS)
        self.tell(Capacity(dict.fromkeys(placed, 0), placed=frozenset(placed)))
        return self


def loss(step: int, node: str = "a") -> GangEnded:
    return GangEnded("failed", step, kind="loss", text=f"lost {node}", node=node)


def test_gang_is_started_as_soon_as_all_its_workers_fit() -> None:
    run = Run()
    assert run.tell(Capacity({"a": 1})) == ()
    assert run.started({"a": 1, "b": 1}) == Start(2, NOWHERE, 10)


def test_gang_is_never_larger_than_the_most_though_more_fit() -> None:
    assert Run().started({"a": 8}).workers == 2


def test_elastic_gang_starts_with_what_fits_once_that_has_settled() -> None:
    run = Run(ELASTIC)
    assert run.tell(Capacity({"a": 2})) == ()
    assert run.started({"a": 2}, SETTLE_SECONDS).workers == 2


def test_wait_for_room_is_said_once_and_ends_with_what_is_lacking() -> None:
    run = Run()
    [said] = run.tell(Capacity({"a": 1}), SAY_SECONDS)
    assert isinstance(said, Say)
    assert "room for 1 of the 2 workers" in said.text
    assert run.tell(Capacity({"a": 1}), 500.0) == ()
    [end] = run.tell(Capacity({"a": 1}), 100.0)
    assert isinstance(end, GiveUp)
    assert end.kind == "capacity"
    assert "cluster.wait_seconds" in end.text


def test_loss_after_progress_is_followed_by_a_gang_at_once() -> None:
    run = Run().running()
    assert run.tell(loss(7)) == ()
    assert run.started({"a": 1, "b": 1}) == Start(2, NOWHERE, 9)


def test_loss_without_progress_is_followed_by_longer_and_longer_pauses() -> None:
    run = Run().running()
    pauses = []
    for step in (5, 5, 5):
        run.tell(loss(step))
        began = run.now
        while not run.tell(Capacity({"a": 1, "b": 1}), 0.25):
            pass
        pauses.append(run.now - began)
    assert pauses == [0.25, 1.0, 2.0]


def test_losses_without_a_step_between_end_with_a_diagnosis() -> None:
    run = Run().running()
    for _ in range(IDLE_GANGS):
        assert run.tell(loss(5), 60.0) == ()
        run.started({"a": 1, "b": 1}, 60.0)
    [end] = run.tell(loss(5), 60.0)
    assert isinstance(end, GiveUp)
    assert end.kind == "no_progress"
    assert "step 5" in end.text
    assert "lost a" in end.text


def test_same_unexpected_error_twice_at_a_step_ends_with_a_diagnosis() -> None:
    error = GangEnded("failed", 5, kind="infrastructure", text="OSError: no attempt", node="a")
    run = Run().running()
    run.tell(error)
    run.started({"a": 2}, 60.0)
    [end] = run.tell(error)
    assert end == GiveUp("program", "the same failure twice at step 5: OSError: no attempt")


@pytest.mark.parametrize("kind", ["input", "program", "no_progress", "budget", "fenced"])
def test_failure_that_no_gang_can_mend_ends_the_run_in_its_own_words(kind: str) -> None:
    assert Run().running().tell(GangEnded("failed", 3, kind=kind, text="why")) == (GiveUp(kind, "why"),)


def test_restarts_within_gangs_and_of_gangs_share_one_budget() -> None:
    run = Run(replace(LIMITS, max_failures=4)).running()
    run.tell(replace(loss(5), restarts=2))
    assert run.started({"a": 2}).max_failures == 1
    [end] = run.tell(replace(loss(9), restarts=1))
    assert isinstance(end, GiveUp)
    assert end.kind == "budget"


def test_run_without_failures_allowed_ends_with_the_first() -> None:
    [end] = Run(replace(LIMITS, max_failures=0)).running().tell(loss(5))
    assert isinstance(end, GiveUp)
    assert (end.kind, "lost a" in end.text) == ("budget", True)


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_good_end_of_a_gang_ends_the_run(status: str) -> None:
    assert Run().running().tell(GangEnded(status, 60)) == (Finish(status),)


def test_stop_while_no_gang_runs_ends_the_run_and_otherwise_waits_for_the_gang() -> None:
    assert Run().tell(StopAsked()) == (Finish("stopped"),)
    assert Run().running().tell(StopAsked()) == ()


def test_gang_makes_way_for_a_larger_one_when_room_has_lasted() -> None:
    run = Run(ELASTIC).running()
    room, none = (Capacity({"a": 0, "b": 0, "c": free}, placed=frozenset("ab")) for free in (1, 0))
    assert run.tell(room) == ()
    assert run.tell(none, HOLD_SECONDS) == ()
    assert run.tell(room, 1.0) == ()
    assert run.tell(room, HOLD_SECONDS) == (MakeWay("resize"),)
    assert run.tell(room, HOLD_SECONDS) == ()  # said once
    run.tell(GangEnded("made_way", 20))
    assert run.started({"a": 1, "b": 1, "c": 1}) == Start(3, NOWHERE, 10)


def test_gang_that_does_not_become_larger_waits_twice_as_long_before_it_makes_way_again() -> None:
    run = Run(ELASTIC).running()
    room = Capacity({"a": 0, "b": 0, "c": 1}, placed=frozenset("ab"))
    holds = []
    for _ in range(9):
        began = run.now
        while not run.tell(room, 1.0):
            pass
        holds.append(run.now - began - 1.0)
        run.tell(GangEnded("made_way", 20))
        assert run.started({"a": 1, "b": 1}, SETTLE_SECONDS).workers == 2  # c's room was not there after all
    assert holds == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, LONGEST_HOLD_SECONDS]


def test_gang_that_became_larger_may_soon_be_larger_again() -> None:
    run = Run(replace(ELASTIC, max_workers=4)).running()
    for free, placed in (({"c": 1}, "ab"), ({"d": 1}, "abc")):
        room = Capacity(free, placed=frozenset(placed))
        assert run.tell(room) == ()
        assert run.tell(room, HOLD_SECONDS) == (MakeWay("resize"),)
        run.tell(GangEnded("made_way", 20))
        assert run.started(dict.fromkeys([*placed, *free], 1), SETTLE_SECONDS).workers == len(placed) + 1


def test_gang_that_has_not_started_yet_is_not_asked_to_make_way() -> None:
    run = Run(ELASTIC)
    run.started({"a": 1}, SETTLE_SECONDS)
    for _ in range(10):
        assert run.tell(Capacity({"a": 0, "b": 4}), HOLD_SECONDS) == ()


def test_full_gang_does_not_make_way() -> None:
    run = Run().running()
    for _ in range(10):
        assert run.tell(Capacity({"c": 4}, placed=frozenset("ab")), HOLD_SECONDS) == ()


def test_gang_on_a_node_to_be_taken_away_makes_way_and_goes_on_elsewhere_without_a_failure() -> None:
    run = Run().running()
    warned = Capacity({"a": 0, "b": 0, "c": 1}, draining=frozenset("b"), placed=frozenset("ab"))
    assert run.tell(warned) == (MakeWay("preemption"),)
    assert run.tell(warned) == ()
    run.tell(GangEnded("made_way", 20))
    [start] = run.tell(Capacity({"a": 1, "b": 1, "c": 1}, draining=frozenset("b")))
    assert start == Start(2, frozenset("b"), 10)
    assert (run.state.preemptions, run.state.failures) == (1, ())


def test_node_to_be_taken_away_that_goes_before_the_save_counts_as_preemption() -> None:
    run = Run().running()
    run.tell(Capacity({}, draining=frozenset("b"), placed=frozenset("ab")))
    assert run.tell(loss(20, "b")) == ()
    assert (run.state.preemptions, run.state.failures) == (1, ())


def test_drain_of_a_node_that_the_gang_is_not_on_is_nothing() -> None:
    assert Run().running().tell(Capacity({}, draining=frozenset("c"), placed=frozenset("ab"))) == ()


def test_preemptions_have_a_budget_of_their_own() -> None:
    run = Run().running()
    for step in (10, 20, 30):
        run.tell(Capacity({}, draining=frozenset("b"), placed=frozenset("ab")))
        actions = run.tell(GangEnded("made_way", step))
        if step < 30:
            assert actions == ()
            run.started({"a": 2})
    [end] = actions
    assert isinstance(end, GiveUp)
    assert (end.kind, "max_preemptions is 2" in end.text) == ("budget", True)


def failed_thrice_on_b() -> Run:
    run = Run().running()
    for step in (10, 20, 30):
        run.tell(loss(step, "b"))
        if step < 30:
            run.started({"a": 1, "b": 1, "c": 1})
    return run


def test_node_that_fails_repeatedly_is_left_out_where_the_others_suffice() -> None:
    assert failed_thrice_on_b().started({"a": 1, "b": 1, "c": 1}).left_out == frozenset("b")


def test_node_that_fails_repeatedly_is_kept_where_the_others_do_not_suffice() -> None:
    assert failed_thrice_on_b().started({"a": 1, "b": 1}).left_out == NOWHERE


@given(st.integers(1, 3), st.booleans(), st.lists(st.integers(0, 3), min_size=20, max_size=60))
def test_room_on_a_node_that_fails_repeatedly_makes_no_gang_make_way(
    min_workers: int, is_on_bad_node: bool, free: list[int]
) -> None:
    run = Run(replace(LIMITS, min_workers=min_workers, max_workers=5)).running("abc")
    for step in (10, 20, 30):
        run.tell(loss(step, "b"))
        run.started({"a": 1, "b": 1, "c": 1 if is_on_bad_node else 2}, SETTLE_SECONDS)
    placed = frozenset("abc" if is_on_bad_node else "ac")
    for more in free:
        assert run.tell(Capacity({"a": 0, "b": more, "c": 0}, placed=placed), HOLD_SECONDS) == ()


def test_gang_that_ray_cannot_place_costs_no_failure_and_ends_with_the_wait() -> None:
    run = Run().running()
    run.tell(loss(5))
    tries = 0
    actions: tuple[Action, ...] = ()
    while not any(isinstance(action, GiveUp) for action in actions):
        actions = run.tell(Capacity({"a": 2}), 1.0)
        if actions:
            tries += 1
            actions = run.tell(GangEnded("failed", 5, kind="placement", text="no placement"), 30.0)
    assert 600.0 <= run.now <= 800.0
    assert 8 <= tries <= 20
    assert len(run.state.failures) == 1


def test_ended_run_takes_no_notice_of_what_comes_later() -> None:
    run = Run().running()
    run.tell(GangEnded("finished", 60))
    assert run.tell(Capacity({"a": 8}), 100.0) == ()
    assert run.tell(loss(60)) == ()


@pytest.mark.parametrize(("steps", "idle"), [([], 0), ([0], 1), ([5], 0), ([5, 5], 1), ([5, 3, 5], 2), ([5, 5, 6], 0)])
def test_gangs_without_step_counts_the_newest_failures_in_a_row(steps: list[int], idle: int) -> None:
    assert gangs_without_step(tuple(loss(step) for step in steps)) == idle


ENDS = st.builds(
    GangEnded,
    st.just("failed"),
    st.integers(0, 50),
    st.integers(0, 3),
    st.sampled_from(["loss", "infrastructure", "placement"]),
    st.sampled_from(["one", "other"]),
    st.sampled_from(["a", "b", None]),
)
FREE = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3))


@given(st.lists(st.tuples(ENDS, FREE, st.sets(st.sampled_from("abcd"))), min_size=60, max_size=60))
def test_policy_of_any_failures_is_bounded_and_keeps_to_the_sizes(
    story: list[tuple[GangEnded, dict[str, int], set[str]]],
) -> None:
    """However gangs fail, their number and their restarts stay within the budgets, and their sizes within the range."""
    run = Run(replace(ELASTIC, max_failures=5))
    starts: list[Start] = []
    for end, free, draining in story:
        for action in run.tell(Capacity(free, frozenset(draining)), 30.0):
            if isinstance(action, Start):
                starts.append(action)
                assert action.left_out.isdisjoint({node for node in free if node not in draining} - {"a", "b"})
                assert action.workers <= sum(n for node, n in free.items() if node not in action.left_out)
                run.tell(replace(end, restarts=min(end.restarts, action.max_failures)), 1.0)
    assert all(1 <= start.workers <= 3 for start in starts)
    assert run.state.spent <= 5
    placed = len(run.state.failures)
    assert placed <= 5
    # Each try to place costs a pause, and the wait has an end.
    assert len(starts) <= 6 * (1 + 30)
