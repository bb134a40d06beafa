"""What follows when a gang ends or the cluster changes: values to values, no clock and no I/O.

    waiting --enough workers fit, the pause is over--> running --ended--> waiting | ended
       |                                                  '--asked to make way--> leaving --ended--> waiting | ended
       '--too few fit for too long--> ended

A gang mends by itself what kills a rank (cluster.policy). Here is what ends a gang: the loss of a supervisor or of a
node, a node that is to be taken away, room for more workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

LONGEST_PAUSE_SECONDS = 60.0

SETTLE_SECONDS = 2.0
"""An elastic gang that could be larger waits so long before it starts: what the last one held is free a little late."""

HOLD_SECONDS = 5.0
"""Room for more workers must last so long before a gang makes way for a larger one."""

LONGEST_HOLD_SECONDS = 640.0
"""The hold doubles up to this with each larger gang that did not come about though there seemed to be room."""

SAY_SECONDS = 5.0
"""A wait that lasts longer is told, once."""

IDLE_GANGS = 4
"""So many failed gangs in a row that complete no new step are the end."""

BAD_NODE_FAILURES, RECENT_FAILURES = 3, 6
"""A node that so many of the last so many failures came from is left out, where the others suffice."""

MENDABLE_KINDS = frozenset({"loss", "placement", "infrastructure"})
"""Failures that another gang may be spared; any other kind it would meet again."""


@dataclass(frozen=True)
class Limits:
    """What the run file allows: workers of a gang, and how much a run may survive, all gangs of a command together."""

    min_workers: int
    max_workers: int
    max_failures: int
    max_preemptions: int
    wait_seconds: float


@dataclass(frozen=True)
class Capacity:
    """The cluster at a moment: it also tells that time has passed.

    free: nodes that answer, by id, and how many more workers each could hold now; draining: nodes that will be taken
    away; placed: nodes that the running gang is on, as far as they are known.
    """

    free: Mapping[str, int]
    draining: frozenset[str] = frozenset()
    placed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class GangEnded:
    """How a gang ended.

    status: `finished`, `stopped` (a user asked), `made_way` (we asked) or `failed`. kind, of a failure: `loss`
    (of a supervisor or a node), `placement` (it never started), `infrastructure` (anything else that another gang may
    be spared), `fenced` (another driver has taken the run over), or the kind of a diagnosis that is final
    (cluster.policy). step: the newest step of the run; restarts: how often ranks were started again within the gang;
    node: the id of the node that the failure came from, where it is known.
    """

    status: str
    step: int
    restarts: int = 0
    kind: str = ""
    text: str = ""
    node: str | None = None


@dataclass(frozen=True)
class StopAsked:
    """The user asked the run to stop."""


Event = Capacity | GangEnded | StopAsked


@dataclass(frozen=True)
class Start:
    """Start a gang of so many workers, away from the nodes left out; it may restart ranks max_failures times."""

    workers: int
    left_out: frozenset[str]
    max_failures: int


@dataclass(frozen=True)
class MakeWay:
    """Ask the gang to save at the next step border and to end. reason: `resize` or `preemption`."""

    reason: str


@dataclass(frozen=True)
class Say:
    """Tell the user, once."""

    text: str


@dataclass(frozen=True)
class GiveUp:
    """The run has failed. kind: `no_progress`, `budget`, `capacity`, `head`, or that of the gang's last failure."""

    kind: str
    text: str


@dataclass(frozen=True)
class Finish:
    """The run has ended well. status: `finished` or `stopped`."""

    status: str


Action = Start | MakeWay | Say | GiveUp | Finish


@dataclass(frozen=True)
class RestartState:
    """What the driver knows of its gangs.

    since: when the present wait began; due: no gang is started before; workers: of the newest gang; failures: those
    that ended gangs, oldest first; restarts: of ranks, within gangs; unplaced: gangs in a row that never started;
    leaving: why the gang was asked to make way; roomy_since: since when a larger gang would fit; hold_seconds: how long
    that must last; resized_from: workers of the newest gang that made way for a larger one.
    """

    limits: Limits
    phase: str = "waiting"
    since: float = 0.0
    due: float = 0.0
    workers: int = 0
    failures: tuple[GangEnded, ...] = ()
    restarts: int = 0
    unplaced: int = 0
    preemptions: int = 0
    leaving: str | None = None
    roomy_since: float | None = None
    hold_seconds: float = HOLD_SECONDS
    resized_from: int = 0
    said: bool = False

    def handle(self, event: Event, now: float) -> tuple[RestartState, tuple[Action, ...]]:
        """The next state, and what is to be done. now: seconds of any clock that never goes back."""
        if self.phase == "ended":
            return self, ()
        match event:
            case StopAsked():
                return self._end(Finish("stopped")) if self.phase == "waiting" else (self, ())
            case GangEnded():
                return self._gang_ended(event, now)
            case Capacity():
                return self._wait(event, now) if self.phase == "waiting" else self._watch(event, now)

    def _end(self, action: Action) -> tuple[RestartState, tuple[Action, ...]]:
        return replace(self, phase="ended"), (action,)

    # ---- without a gang

    def _wait(self, capacity: Capacity, now: float) -> tuple[RestartState, tuple[Action, ...]]:
        low, high = self.limits.min_workers, self.limits.max_workers
        left_out = self._left_out(capacity)
        fits = sum(free for node, free in capacity.free.items() if node not in left_out)
        waited = now - self.since
        if now >= self.due and (fits >= high or (fits >= low and waited >= SETTLE_SECONDS)):
            workers = min(fits, high)
            start = Start(workers, left_out, max(0, self.limits.max_failures - self.spent))
            fresh = replace(self, phase="running", workers=workers, leaving=None, roomy_since=None, said=False)
            return fresh, (start,)
        if fits >= low or waited < SAY_SECONDS:
            return self, ()
        lacking = f"the cluster has room for {fits} of the {low} workers that the run needs"
        if waited >= self.limits.wait_seconds:
            return self._end(GiveUp("capacity", self._no_room(lacking)))
        if self.said:
            return self, ()
        return replace(self, said=True), (Say(f"{lacking}; waiting up to {self.limits.wait_seconds:.0f} s for more"),)

    def _no_room(self, lacking: str) -> str:
        last = f" The last failure: {self.failures[-1].text}" if self.failures else ""
        return (
            f"{lacking}, after {self.limits.wait_seconds:.0f} s (cluster.wait_seconds). Add nodes or lower "
            f"cluster.workers; the same command goes on from the newest checkpoint.{last}"
        )

    def _left_out(self, capacity: Capacity) -> frozenset[str]:
        """Nodes that no worker may be placed on: draining ones, and the bad ones where the others suffice."""
        draining, bad = capacity.draining, self._bad_nodes()
        others = sum(free for node, free in capacity.free.items() if node not in draining | bad)
        return draining | bad if others >= self.limits.min_workers else draining

    def _bad_nodes(self) -> frozenset[str]:
        """Nodes that fail again and again."""
        recent = Counter(failure.node for failure in self.failures[-RECENT_FAILURES:] if failure.node)
        return frozenset(node for node, count in recent.items() if count >= BAD_NODE_FAILURES)

    # ---- with a gang

    def _watch(self, capacity: Capacity, now: float) -> tuple[RestartState, tuple[Action, ...]]:
        if self.leaving is not None:
            return self, ()
        if capacity.draining & capacity.placed:
            return replace(self, leaving="preemption"), (MakeWay("preemption"),)
        state = self._grown() if capacity.placed else self
        # Whether a next gang would use a bad node cannot be told while this one holds what is free on the others.
        shunned = capacity.draining | self._bad_nodes()
        more = sum(free for node, free in capacity.free.items() if node not in shunned)
        if self.workers >= self.limits.max_workers or more <= 0 or not capacity.placed:
            return replace(state, roomy_since=None), ()
        since = now if self.roomy_since is None else self.roomy_since
        if now - since < state.hold_seconds:
            return replace(state, roomy_since=since), ()
        hold_seconds = min(LONGEST_HOLD_SECONDS, 2 * state.hold_seconds)
        leaving = replace(state, leaving="resize", hold_seconds=hold_seconds, resized_from=self.workers)
        return leaving, (MakeWay("resize"),)

    def _grown(self) -> RestartState:
        """With the hold as it was at first, if the gang that runs is larger than the one that made way."""
        return replace(self, hold_seconds=HOLD_SECONDS) if self.workers > self.resized_from else self

    @property
    def spent(self) -> int:
        """How much of max_failures is used up."""
        return self.restarts + len(self.failures)

    def _gang_ended(self, end: GangEnded, now: float) -> tuple[RestartState, tuple[Action, ...]]:
        if end.status in ("finished", "stopped"):
            return self._end(Finish(end.status))
        state = replace(self, restarts=self.restarts + end.restarts)
        preempted = self.leaving == "preemption" and (end.status == "made_way" or end.kind == "loss")
        if preempted:
            return state._preempted(end, now)
        if end.status == "made_way":
            return state._wait_again(now, 0.0)
        return state._unplaced(end, now) if end.kind == "placement" else state._failed(end, now)

    def _wait_again(self, now: float, pause_seconds: float) -> tuple[RestartState, tuple[Action, ...]]:
        return replace(self, phase="waiting", since=now, due=now + pause_seconds, unplaced=0, said=False), ()

    def _unplaced(self, end: GangEnded, now: float) -> tuple[RestartState, tuple[Action, ...]]:
        """The wait goes on as if no gang had been started."""
        if now - self.since >= self.limits.wait_seconds:
            return self._end(GiveUp("capacity", self._no_room(end.text)))
        again, _ = self._wait_again(now, _pause_seconds(self.unplaced + 1))
        return replace(again, since=self.since, unplaced=self.unplaced + 1), ()

    def _preempted(self, end: GangEnded, now: float) -> tuple[RestartState, tuple[Action, ...]]:
        if self.preemptions >= self.limits.max_preemptions:
            text = f"nodes were taken away {self.preemptions + 1} times, and max_preemptions is {self.preemptions}"
            return self._end(GiveUp("budget", f"{text}. {end.text}".strip()))
        return replace(self, preemptions=self.preemptions + 1)._wait_again(now, 0.0)

    def _failed(self, end: GangEnded, now: float) -> tuple[RestartState, tuple[Action, ...]]:
        if end.kind not in MENDABLE_KINDS:
            return self._end(GiveUp(end.kind, end.text))
        if end.kind == "infrastructure" and any(_same(end, earlier) for earlier in self.failures):
            return self._end(GiveUp("program", f"the same failure twice at step {end.step}: {end.text}"))
        if self.spent >= self.limits.max_failures:
            text = f"all {self.limits.max_failures} restarts (cluster.max_failures) are used up, the last failure: "
            return self._end(GiveUp("budget", text + end.text))
        state = replace(self, failures=(*self.failures, end))
        idle = gangs_without_step(state.failures)
        if idle >= IDLE_GANGS:
            text = f"{idle} gangs in a row without a new step after step {end.step}, the last: {end.text}"
            return state._end(GiveUp("no_progress", text))
        return state._wait_again(now, _pause_seconds(idle))


def gangs_without_step(failures: tuple[GangEnded, ...]) -> int:
    """How many of the newest failures in a row came at a step at which the run had been before."""
    best, idle = 0, 0
    for failure in failures:
        idle = 0 if failure.step > best else idle + 1
        best = max(best, failure.step)
    return idle


def _pause_seconds(idle: int) -> float:
    """Nothing after progress, then 1, 2, 4, ... seconds."""
    return min(LONGEST_PAUSE_SECONDS, 2.0 ** (idle - 1)) if idle > 0 else 0.0


def _same(one: GangEnded, other: GangEnded) -> bool:
    return (one.kind, one.step, one.text) == (other.kind, other.step, other.text)
