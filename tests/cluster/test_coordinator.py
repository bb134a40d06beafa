"""The coordinator's state machine against simulated supervisors whose messages are delivered in any order."""

from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.coordinator import (
    STOP_SECONDS,
    Action,
    CoordinatorState,
    Event,
    Lost,
    Open,
    Opened,
    OpenFailed,
    Tick,
)
from cluster.messages import Dead, Done, Down, Finish, Hello, Moving, Start, Stop, Stuck
from cluster.policy import Death, GiveUp

KINDS = ("signal", "hang", "exception", "exit", "zygote", "input", "preload")


def death(rank: int, step: int = 0, kind: str = "signal") -> Death:
    return Death(rank, f"node{rank}", kind, f"{kind} of rank {rank}", step, signal=9 if kind == "signal" else None)


def fresh(world_size: int = 2, max_failures: int = 5) -> CoordinatorState:
    return CoordinatorState(world_size, max_failures, due=100.0)


def play(state: CoordinatorState, *events: Event, now: float = 1.0) -> tuple[CoordinatorState, list[Action]]:
    actions: list[Action] = []
    for event in events:
        state, more = state.handle(event, now)
        actions += more
    return state, actions


def hellos(world_size: int = 2) -> list[Hello]:
    return [Hello(rank, f"node{rank}", "secret") for rank in range(world_size)]


@pytest.fixture
def running() -> CoordinatorState:
    return play(fresh(), *hellos(), Opened(4, "here", 77))[0]


def test_coordinator_all_hellos_open_and_start_an_attempt() -> None:
    state, actions = play(fresh(), *hellos())
    assert actions == [Open()]
    assert play(state, Opened(4, "here", 77))[1] == [Start(4, "here", 77)]


def test_coordinator_same_hello_twice_counts_once() -> None:
    assert play(fresh(), hellos()[0], hellos()[0])[1] == []


def test_coordinator_missing_hello_gives_up_at_the_deadline() -> None:
    state, _ = play(fresh(3), *hellos(2))
    assert play(state, Tick(), now=99.0)[1] == []
    (give_up,) = play(state, Tick(), now=100.0)[1]
    assert isinstance(give_up, GiveUp)
    assert give_up.diagnosis.reason == "no word from the supervisors of ranks: [2]"
    assert not give_up.diagnosis.final


def test_coordinator_attempt_that_cannot_be_opened_gives_up() -> None:
    state, actions = play(fresh(), *hellos(), OpenFailed("disk full"))
    assert isinstance(actions[-1], GiveUp)
    assert (state.phase, actions[-1].diagnosis.reason, actions[-1].diagnosis.attempt) == ("failed", "disk full", 0)


def test_coordinator_attempt_that_cannot_be_opened_counts_as_its_own(running: CoordinatorState) -> None:
    _, actions = play(running, Dead(4, death(1)), Down(4, 0, 2), Down(4, 1, 2), OpenFailed("disk full"))
    assert isinstance(actions[-1], GiveUp)
    assert actions[-1].diagnosis.attempt == 5


def test_coordinator_opened_that_was_not_asked_for_is_ignored(running: CoordinatorState) -> None:
    assert running.handle(Opened(5, "here", 78), 1.0) == (running, ())
    opening, _ = play(running, Dead(4, death(1, 6)), Down(4, 0, 6), Down(4, 1, 6))
    assert opening.handle(Opened(4, "here", 77), 1.0) == (opening, ())


def test_coordinator_death_stops_all_then_restarts_with_its_cause(running: CoordinatorState) -> None:
    state, actions = play(running, Dead(4, death(1, 6)), now=12.5)
    assert actions == [Stop(4)]
    state, actions = play(state, Down(4, 1, 6), Down(4, 1, 6))
    assert actions == []
    state, actions = play(state, Down(4, 0, 7))
    assert actions == [Open()]
    state, actions = play(state, Opened(5, "here", 78))
    assert actions == [Start(5, "here", 78, death(1, 6), 12.5)]
    assert state.history[0].step == 7


def test_coordinator_later_violent_death_is_the_cause(running: CoordinatorState) -> None:
    state, _ = play(running, Dead(4, death(0, 6, "exception")), Dead(4, death(1, 6)), Down(4, 0, 6), Down(4, 1, 6))
    assert state.history[0].death == death(1, 6)


def stuck(rank: int, *place: int) -> Stuck:
    return Stuck(4, death(rank, place[0], "hang"), place)


def test_coordinator_hangs_when_all_stand_still_and_names_the_one_behind(running: CoordinatorState) -> None:
    """Rank 1 stands at the end of step 6, so rank 0 waits for it in step 7."""
    state, actions = play(running, stuck(0, 7, 3, 40), now=20.0)
    assert actions == []
    state, actions = play(state, stuck(1, 6, 6, 39), now=21.0)
    assert (actions, state.deaths) == ([Stop(4)], (death(1, 6, "hang"),))


def test_coordinator_rank_that_moves_again_is_no_hang(running: CoordinatorState) -> None:
    """As when storage held up rank 1, and so rank 0."""
    state, actions = play(running, stuck(0, 7, 3, 40), Moving(4, 0), stuck(1, 7, 3, 41))
    assert (actions, state.phase) == ([], "running")
    assert play(state, stuck(0, 7, 3, 41), stuck(0, 7, 3, 41))[1] == [Stop(4)]


def test_coordinator_rank_that_waits_for_one_that_is_done_hangs(running: CoordinatorState) -> None:
    state, actions = play(running, stuck(0, 7, 3, 40), Done(4, 1, 0, 9))
    assert (actions, state.deaths) == ([Stop(4)], (death(0, 7, "hang"),))


def test_coordinator_two_that_stopped_are_both_told(running: CoordinatorState) -> None:
    state, _ = play(running, Dead(4, death(1, 6, "hang")), Dead(4, death(0, 6, "hang")), Down(4, 1, 6), Down(4, 0, 6))
    assert state.history[0].death.rank == 1
    assert state.history[0].death.reason == "hang of rank 1; rank 0 on node0 too: hang of rank 0"


def test_coordinator_pause_opens_when_it_is_over(running: CoordinatorState) -> None:
    state = running
    for attempt in (4, 5):
        dead = [Dead(attempt, death(1)), Down(attempt, 0, 0), Down(attempt, 1, 0)]
        state, actions = play(state, *dead, now=50.0)
        if attempt == 4:
            state, _ = play(state, Opened(5, "here", 78))
    assert (state.phase, actions) == ("waiting", [Stop(5)])
    assert play(state, Tick(), now=50.9)[1] == []
    assert play(state, Tick(), now=51.0)[1] == [Open()]


def test_coordinator_rank_that_is_never_reaped_gives_up(running: CoordinatorState) -> None:
    state, _ = play(running, Dead(4, death(1)), Down(4, 1, 0), now=10.0)
    (give_up,) = play(state, Tick(), now=10.0 + STOP_SECONDS)[1]
    assert isinstance(give_up, GiveUp)
    assert give_up.diagnosis.reason == "killed ranks that are not reaped: [0]"


def test_coordinator_all_done_finishes(running: CoordinatorState) -> None:
    state, actions = play(running, Done(4, 0, 0, 9), Done(4, 0, 0, 9))
    assert (state.phase, actions) == ("running", [])
    state, actions = play(state, Done(4, 1, 0, 9))
    assert (state.phase, actions) == ("finished", [Finish("finished", 4, 9, 0)])


def test_coordinator_all_stopped_on_request_says_stopped(running: CoordinatorState) -> None:
    assert play(running, Done(4, 0, 3, 9), Done(4, 1, 3, 9))[1] == [Finish("stopped", 4, 9, 0)]


def test_coordinator_ranks_that_disagree_are_a_program_failure(running: CoordinatorState) -> None:
    (give_up,) = play(running, Done(4, 0, 3, 9), Done(4, 1, 0, 9))[1]
    assert isinstance(give_up, GiveUp)
    assert give_up.diagnosis.kind == "program"


def test_coordinator_death_after_a_done_restarts_all(running: CoordinatorState) -> None:
    state, actions = play(running, Done(4, 0, 0, 9), Dead(4, death(1, 9)), Down(4, 0, 9), Down(4, 1, 9))
    assert actions == [Stop(4), Open()]
    state, _ = play(state, Opened(5, "here", 78), Done(5, 1, 0, 9))
    assert state.phase == "running"


def test_coordinator_lost_supervisor_gives_up_naming_it(running: CoordinatorState) -> None:
    (give_up,) = play(running, Lost(1, "silent for 15.0 s"))[1]
    assert isinstance(give_up, GiveUp)
    assert give_up.diagnosis.reason == "lost the supervisor of rank 1 on node1: silent for 15.0 s"
    assert not give_up.diagnosis.final


@pytest.mark.parametrize("kind", ["node", "fenced"])
def test_coordinator_lost_supervisor_that_told_why_is_believed(running: CoordinatorState, kind: str) -> None:
    told = replace(death(1, 3, kind), reason="why it went")
    actions = play(running, Dead(4, told), Lost(1, "connection closed"))[1]
    assert isinstance(actions[-1], GiveUp)
    assert actions[-1].diagnosis.death == told


@given(
    st.sampled_from(["gathering", "opening", "running", "stopping", "waiting"]), st.integers(0, 9), st.integers(0, 1)
)
def test_coordinator_stale_messages_never_act(phase: str, attempt: int, rank: int) -> None:
    state = replace(fresh(), phase=phase, attempt=10, present=((0, "a"), (1, "b")), deaths=(death(0),))
    for message in (Dead(attempt, death(rank)), Down(attempt, rank, 3), Done(attempt, rank, 0, 3)):
        assert state.handle(message, 1.0) == (state, ())


@dataclass
class FakeSupervisor:
    """Does as the real one: obeys in order, and forks only after it has said down."""

    rank: int
    alive: int | None = None
    attempt: int = 0
    step: int = 0
    ended: bool = False
    lost: bool = False
    inbox: deque[Action] = field(default_factory=deque)
    outbox: deque[Event] = field(default_factory=deque)

    def obey(self) -> None:
        message = self.inbox.popleft()
        if isinstance(message, Start):
            assert self.alive is None
            self.alive = self.attempt = message.attempt
            self.step = 0
        elif isinstance(message, Stop):
            self.alive = None
            self.outbox.append(Down(message.attempt, self.rank, self.step))
        else:
            self.ended, self.alive = True, None

    def fail(self, kind: str, step: int) -> None:
        if self.alive is not None:
            self.step = step
            self.outbox.append(Dead(self.alive, death(self.rank, step, kind)))
            # A rank that hangs, or whose zygote died, lives on until it is killed.
            self.alive = self.alive if kind == "hang" else None

    def succeed(self) -> None:
        if self.alive is not None:
            self.outbox.append(Done(self.alive, self.rank, 0, self.step))
            self.alive = None


class Simulation:
    """The state machine, its supervisors, and the wires between them, which keep the order of each one's messages."""

    def __init__(self, world_size: int, max_failures: int) -> None:
        self.state = replace(fresh(world_size, max_failures), due=1e9)
        self.supervisors = [FakeSupervisor(rank) for rank in range(world_size)]
        self.now = 0.0
        self.opened = 0
        self.sent: list[Event] = []
        for hello, supervisor in zip(hellos(world_size), self.supervisors, strict=True):
            supervisor.outbox.append(hello)

    def deliver(self, event: Event) -> None:
        self.sent.append(event)
        self.state, actions = self.state.handle(event, self.now)
        for action in actions:
            if isinstance(action, Open):
                self.opened += 1
                self.deliver(Opened(self.opened, "here", 1))
                continue
            if isinstance(action, Start):
                # The heart of it: nobody's rank, not even that of a supervisor that was lost, is alive now.
                assert [supervisor.alive for supervisor in self.supervisors if supervisor.alive is not None] == []
            for supervisor in self.supervisors:
                supervisor.inbox.append(action)

    def act(self, what: str, choice: int, value: int) -> None:
        """Let one of those who can do `what` do it."""
        self.now += 0.5
        there = [supervisor for supervisor in self.supervisors if not supervisor.lost]
        if what == "stale":
            self.repeat(value)
        elif what == "tick":
            self.deliver(Tick())
        elif what == "obey" and (ready := [one for one in there if one.inbox]):
            ready[choice % len(ready)].obey()
        elif what == "deliver" and (ready := [one for one in there if one.outbox]):
            self.deliver(ready[choice % len(ready)].outbox.popleft())
        elif what == "fail" and (ready := [one for one in there if one.alive is not None]):
            ready[choice % len(ready)].fail(KINDS[value % len(KINDS)], value)
        elif what == "succeed" and (ready := [one for one in there if one.alive is not None]):
            ready[choice % len(ready)].succeed()
        elif what == "lose" and there:
            loser = there[choice % len(there)]
            loser.lost = True
            self.deliver(Lost(loser.rank, "connection closed"))

    def repeat(self, choice: int) -> None:
        """A message of an older attempt comes a second time."""
        old = [event for event in self.sent if getattr(event, "attempt", self.state.attempt) != self.state.attempt]
        if old:
            self.deliver(old[choice % len(old)])

    def settle(self) -> None:
        """No more faults: deliver what is on the wires and let the ranks finish, until the gang has ended."""
        for turn in range(2000):
            for what in ("obey", "deliver", "obey", "deliver", "succeed", "tick"):
                self.act(what, turn, 0)
            if self.state.ended:
                return


ACTS = st.tuples(
    st.sampled_from(["obey", "deliver", "obey", "deliver", "obey", "deliver", "fail", "succeed", "stale", "tick"]),
    st.integers(0, 3),
    st.integers(0, 40),
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(0, 4), st.lists(ACTS, min_size=40, max_size=150))
def test_coordinator_any_order_keeps_one_attempt_alive_and_ends(
    world_size: int, max_failures: int, acts: list[tuple[str, int, int]]
) -> None:
    simulation = Simulation(world_size, max_failures)
    for what, choice, value in acts:
        simulation.act(what, choice, value)
    simulation.settle()
    assert simulation.state.ended
    assert simulation.opened <= max_failures + 1
    assert len(simulation.state.history) <= max_failures + 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.lists(ACTS, max_size=80), st.integers(0, 3))
def test_coordinator_lost_supervisor_at_any_time_ends_it_all(
    world_size: int, acts: list[tuple[str, int, int]], rank: int
) -> None:
    simulation = Simulation(world_size, 3)
    for what, choice, value in acts:
        simulation.act(what, choice, value)
    ended = simulation.state.ended
    simulation.act("lose", rank, 0)
    opened = simulation.opened
    simulation.settle()
    assert simulation.state.phase == "failed" or ended
    assert simulation.opened == opened
