"""The gang's mind: which attempt runs, and what every supervisor is told. Pure: `handle` maps values to values.

    gathering --all said hello--> opening --opened--> running --a rank died--> stopping --all are down--> policy
                                     ^------------------- (waiting) <----- restart -----'           '--> failed
    running --all are done--> finished

A rank that stands still may be waiting for another. So the gang hangs when every rank that is not done stands still,
each by its own limit, and the one that is furthest behind is the cause.

At no time are two attempts alive: a new one is opened only after every supervisor has said that its rank of the one
before is reaped. What belongs to another attempt is dropped.
"""

from dataclasses import dataclass, replace

from cluster.messages import Dead, Done, Down, Finish, Hello, Moving, Start, Stop, Stuck
from cluster.policy import Death, Diagnosis, Failure, GiveUp, decide, root_cause, with_companions

STOP_SECONDS = 60.0
"""A killed rank that is not reaped by then never will be (a process that hangs in the kernel)."""

_STATUS = {0: "finished", 3: "stopped"}


@dataclass(frozen=True)
class Opened:
    """An attempt's number was taken and its store's port bound: the answer to Open."""

    attempt: int
    store_host: str
    store_port: int


@dataclass(frozen=True)
class OpenFailed:
    """The attempt could not be opened, with the reason."""

    reason: str


@dataclass(frozen=True)
class Lost:
    """The connection of a supervisor that had said hello is lost."""

    rank: int
    reason: str


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Open:
    """Take the next attempt's number and bind its store's port, then report Opened."""


Event = Hello | Opened | OpenFailed | Dead | Stuck | Moving | Down | Done | Lost | Tick
Action = Open | Start | Stop | Finish | GiveUp


@dataclass(frozen=True)
class CoordinatorState:
    """What the coordinator knows. `due` is the deadline of the phase: gather, stop or restart by then.

    present: rank and node of each supervisor; done, down: ranks of this attempt; step: the last one that any rank
    completed in this attempt; stuck: what ranks that stand still say; detected: when this attempt's first death
    was heard of.
    """

    world_size: int
    max_failures: int
    due: float | None
    phase: str = "gathering"
    present: tuple[tuple[int, str], ...] = ()
    attempt: int = 0
    done: tuple[tuple[int, int], ...] = ()
    down: frozenset[int] = frozenset()
    deaths: tuple[Death, ...] = ()
    stuck: tuple[Stuck, ...] = ()
    step: int = 0
    detected: float | None = None
    history: tuple[Failure, ...] = ()

    @property
    def ended(self) -> bool:
        return self.phase in ("finished", "failed")

    def handle(self, event: Event, now: float) -> "tuple[CoordinatorState, tuple[Action, ...]]":
        """The next state, and what is to be done; Start, Stop, Finish and GiveUp go to all supervisors."""
        if self.ended:
            return self, ()
        match event:
            case Hello():
                return self._greet(event)
            case Opened():
                return self._start(event)
            case OpenFailed():
                # Its number may have been taken all the same.
                return self._fail(Diagnosis("infrastructure", event.reason, self.attempt and self.attempt + 1))
            case Lost():
                return self._lose(event)
            case Tick():
                return self._tick(now)
            case Dead() | Stuck() | Moving() | Down() | Done():
                return self._hear(event, now) if event.attempt == self.attempt else (self, ())

    def _greet(self, hello: Hello) -> "tuple[CoordinatorState, tuple[Action, ...]]":
        if self.phase != "gathering" or hello.rank in dict(self.present):
            return self, ()
        state = replace(self, present=(*self.present, (hello.rank, hello.node)))
        return state._open() if len(state.present) == self.world_size else (state, ())

    def _open(self) -> "tuple[CoordinatorState, tuple[Action, ...]]":
        return replace(self, phase="opening", due=None), (Open(),)

    def _start(self, opened: Opened) -> "tuple[CoordinatorState, tuple[Action, ...]]":
        if self.phase != "opening" or opened.attempt <= self.attempt:
            return self, ()
        cause = self.history[-1].death if self.history else None
        start = Start(opened.attempt, opened.store_host, opened.store_port, cause, self.detected)
        fresh = replace(self, attempt=opened.attempt, done=(), down=frozenset(), deaths=(), stuck=(), step=0)
        return replace(fresh, phase="running", detected=None), (start,)

    def _hear(
        self, event: Dead | Stuck | Moving | Down | Done, now: float
    ) -> "tuple[CoordinatorState, tuple[Action, ...]]":
        if self.phase == "running":
            if isinstance(event, Dead):
                return self._stop(event.death, now)
            if isinstance(event, Stuck | Moving):
                return self._note_stuck(event)._look_for_hang(now)
            if isinstance(event, Done):
                state, actions = self._finish_rank(event)
                return (state, actions) if actions else state._look_for_hang(now)
        if self.phase == "stopping":
            if isinstance(event, Dead):
                return replace(self, deaths=(*self.deaths, event.death)), ()
            if isinstance(event, Down):
                return self._count_down(event, now)
        return self, ()

    def _stop(self, death: Death, now: float) -> "tuple[CoordinatorState, tuple[Action, ...]]":
        state = replace(self, phase="stopping", deaths=(death,), detected=now, due=now + STOP_SECONDS)
        return state, (Stop(self.attempt),)

    def _note_stuck(self, event: Stuck | Moving) -> "CoordinatorState":
        rank = event.death.rank if isinstance(event, Stuck) else event.rank
        others = tuple(other for other in self.stuck if other.death.rank != rank)
        return replace(self, stuck=(*others, event) if isinstance(event, Stuck) else others)

    def _look_for_hang(self, now: float) -> "tuple[CoordinatorState, tuple[Action, ...]]":
        idle = {stuck.death.rank for stuck in self.stuck} | dict(self.done).keys()
        if not self.stuck or len(idle) < self.world_size:
            return self, ()
        return self._stop(min(self.stuck, key=lambda stuck: (stuck.place, stuck.death.rank)).death, now)

    def _finish_rank(self, done: Done) -> "tuple[CoordinatorState, tuple[Action, ...]]":
        if done.rank in dict(self.done):
            return self, ()
        state = replace(self, done=(*self.done, (done.rank, done.code)), step=max(self.step, done.step))
        codes = {code for _, code in state.done}
        if len(state.done) < self.world_size:
            return state, ()
        if len(codes) > 1:
            return state._fail(Diagnosis("program", f"ranks disagree on how they ended: {state.done}", self.attempt))
        finish = Finish(_STATUS[codes.pop()], self.attempt, state.step, len(self.history))
        return replace(state, phase="finished", due=None), (finish,)

    def _count_down(self, event: Down, now: float) -> "tuple[CoordinatorState, tuple[Action, ...]]":
        state = replace(self, down=self.down | {event.rank}, step=max(self.step, event.step))
        if len(state.down) < self.world_size:
            return state, ()
        cause = with_companions(root_cause(state.deaths), state.deaths)
        failure = Failure(self.attempt, cause, state.step)
        decision = decide(self.history, failure, self.max_failures)
        state = replace(state, history=(*self.history, failure))
        if isinstance(decision, GiveUp):
            return state._fail(decision.diagnosis)
        if decision.after_seconds > 0.0:
            return replace(state, phase="waiting", due=now + decision.after_seconds), ()
        return state._open()

    def _tick(self, now: float) -> "tuple[CoordinatorState, tuple[Action, ...]]":
        if self.due is None or now < self.due:
            return self, ()
        if self.phase == "waiting":
            return self._open()
        present = self.down if self.phase == "stopping" else dict(self.present)
        missing = sorted(set(range(self.world_size)) - set(present))
        what = (
            "killed ranks that are not reaped" if self.phase == "stopping" else "no word from the supervisors of ranks"
        )
        return self._fail(Diagnosis("infrastructure", f"{what}: {missing}", self.attempt))

    def _lose(self, lost: Lost) -> "tuple[CoordinatorState, tuple[Action, ...]]":
        node = dict(self.present).get(lost.rank, "unknown")
        known = [death for death in self.deaths if death.rank == lost.rank and death.kind in ("node", "fenced")]
        reason = f"lost the supervisor of rank {lost.rank} on {node}: {lost.reason}"
        death = known[0] if known else Death(lost.rank, node, "supervisor", reason)
        return self._fail(Diagnosis("infrastructure", death.reason, self.attempt, death))

    def _fail(self, diagnosis: Diagnosis) -> "tuple[CoordinatorState, tuple[Action, ...]]":
        return replace(self, phase="failed", due=None), (GiveUp(diagnosis),)
