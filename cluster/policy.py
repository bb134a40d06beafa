"""What to do after a failed attempt: values to values, no clock and no I/O."""

import re
from dataclasses import dataclass, replace

ATTEMPTS_WITHOUT_STEP = 3
"""So many attempts in a row that complete no new step are the end."""

PAUSE_SECONDS = 1.0
"""Pause before the last of the attempts without a new step: a crowded node may have room again."""

FINAL_KINDS = frozenset({"input", "preload"})
LOST_KINDS = frozenset({"node", "supervisor", "fenced"})
FINAL_ERRORS = frozenset({"trainer.errors.BadNumbersError"})
"""Exceptions by which a program says that it must not be tried again."""
ADAPTED_ERRORS = frozenset({"trainer.errors.SmallerMicroBatchError"})
"""Exceptions by which a program says that the next attempt will go about it otherwise: no sign of standing still."""
_EXCEPTION_KINDS = frozenset({"exception", "exit"})
_SIGABRT = 6


@dataclass(frozen=True)
class Death:
    """How one rank ended, as its supervisor saw it.

    `kind` is one of: `signal`, `memory` (killed by the kernel for want of memory), `hang`, `exception` (Python's, with
    a note), `exit` (a status without a note), `input` (status 2: the user's input is wrong), `preload` (the zygote
    could not import the program), `zygote` (the fork server itself died), `node` (the node's raylet died),
    `supervisor` (its connection was lost), `fenced` (a newer attempt has begun elsewhere).
    `step` is the step that the rank was at, 0 if it had not begun one, and `phase` where in it; `detected_seconds` the
    time from its last sign of life to this report.
    """

    rank: int
    node: str
    kind: str
    reason: str
    step: int = 0
    exit_code: int | None = None
    signal: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    last_lines: tuple[str, ...] = ()
    phase: str | None = None
    detected_seconds: float | None = None


@dataclass(frozen=True)
class Failure:
    """A failed attempt: its first cause, and the last step that any rank completed in it (0 if none)."""

    attempt: int
    death: Death
    step: int


@dataclass(frozen=True)
class Diagnosis:
    """Why the gang gives up. `kind`: `input`, `program`, `no_progress`, `budget` or `infrastructure`."""

    kind: str
    reason: str
    attempt: int = 0
    death: Death | None = None

    @property
    def final(self) -> bool:
        """Whether starting the gang again, on this or other machines, is of no use."""
        return self.kind != "infrastructure"

    def text(self) -> str:
        """The diagnosis for people: reason, rank, node, step, and the rank's last lines."""
        if self.death is None:
            return self.reason
        place = f"rank {self.death.rank} on {self.death.node}, attempt {self.attempt}, at step {self.death.step}"
        lines = [f"{self.reason} ({place})", *(f"  | {line}" for line in self.death.last_lines)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Restart:
    """Try again after a pause."""

    after_seconds: float


@dataclass(frozen=True)
class GiveUp:
    """End the gang: every supervisor raises."""

    diagnosis: Diagnosis


def root_cause(deaths: tuple[Death, ...]) -> Death:
    """Of the deaths of one attempt, in order of arrival, the one that caused the others.

    The first, but for one case: a rank that is killed makes its peers raise (their connections break), and a peer's
    report may come first. So a violent death goes before an exception. An abort does not: communication libraries
    abort the peers of a rank that failed.
    """
    first = deaths[0]
    if first.kind not in _EXCEPTION_KINDS and first.signal != _SIGABRT:
        return first
    silent = next((death for death in deaths if death.kind == "exit"), first)  # it did not hear of it from a peer
    return next((death for death in deaths if _is_violent(death)), silent)


def with_companions(cause: Death, deaths: tuple[Death, ...]) -> Death:
    """The cause, its reason telling of the other ranks that died by violence too: none of them caused the others."""
    others = {death.rank: death for death in deaths if death.rank != cause.rank and _is_violent(death)}
    told = "".join(f"; rank {rank} on {death.node} too: {death.reason}" for rank, death in sorted(others.items()))
    return replace(cause, reason=cause.reason + told)


def decide(history: tuple[Failure, ...], failure: Failure, max_failures: int) -> Restart | GiveUp:
    """What follows `failure`, given the `history` of the failures before it (oldest first).

    `max_failures` is the number of restarts that the gang may make in all.
    """
    death = failure.death
    if death.kind in LOST_KINDS:
        return _give_up("infrastructure", death.reason, failure)
    if death.kind in FINAL_KINDS:
        return _give_up("input" if death.kind == "input" else "program", death.reason, failure)
    if death.error_type in FINAL_ERRORS:
        return _give_up("program", death.reason, failure)
    if any(_same_exception(earlier, failure) for earlier in history):
        return _give_up("program", f"the same exception twice at the same step: {death.reason}", failure)
    idle = attempts_without_step((*history, failure))
    if idle >= ATTEMPTS_WITHOUT_STEP:
        return _give_up(
            "no_progress", f"{idle} attempts in a row without a new step, the last: {death.reason}", failure
        )
    if len(history) >= max_failures:
        return _give_up("budget", f"all {max_failures} restarts are used up, the last failure: {death.reason}", failure)
    return Restart(PAUSE_SECONDS if idle == ATTEMPTS_WITHOUT_STEP - 1 else 0.0)


def attempts_without_step(failures: tuple[Failure, ...]) -> int:
    """How many of the newest failures in a row completed no step that was new; those that adapted are left out."""
    best, idle = 0, 0
    for failure in failures:
        if failure.death.error_type in ADAPTED_ERRORS:
            continue
        idle = 0 if failure.step > best else idle + 1
        best = max(best, failure.step)
    return idle


def _give_up(kind: str, reason: str, failure: Failure) -> GiveUp:
    return GiveUp(Diagnosis(kind, reason, failure.attempt, failure.death))


def _is_violent(death: Death) -> bool:
    return death.kind in ("node", "input", "preload", "zygote", "hang", "memory") or (
        death.kind == "signal" and death.signal != _SIGABRT
    )


def _same_exception(earlier: Failure, later: Failure) -> bool:
    kinds = (earlier.death.kind, later.death.kind)
    return kinds[0] in _EXCEPTION_KINDS and _exception_key(earlier.death) == _exception_key(later.death)


def _exception_key(death: Death) -> tuple[object, ...]:
    # Addresses of objects differ from process to process; everything else in a message tells failures apart.
    message = re.sub(r"0x[0-9a-fA-F]+", "0x", death.error_message or "")
    return death.kind, death.step, death.exit_code, death.error_type, message
