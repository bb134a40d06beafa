"""Where the time of a run went, from its journal. Pure: records in, time by cause out; the sum is the wall time.

The measure is Google's ML goodput and Meta's effective training time ratio: time spent on steps that count, each once,
over the wall time. A run's wall time goes from its first attempt's number to its last record, without the time in which
nobody wanted it to run: from a stop on request, or the end, to the next attempt. The time that its submissions stood in
line belongs to it, wherever that lies; what a driver does from there to the first attempt's number (it starts, and
prepares the corpus) does not. Amounts are whole microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from monitoring.attempts import Attempt, attempts_of, microseconds_of, times_of, whole_microseconds
from monitoring.columns import Columns, believed_columns, columns_of, counted_steps
from monitoring.history import Fence
from monitoring.journal import Record, number
from monitoring.time_in_line import spans_in_line, with_line

CAUSES: Mapping[str, str] = {
    "steps": "steps that count, without their wait for data: what a run is for",
    "data_wait": "waiting for the batches of those steps",
    "replayed": "steps that were run again later or whose numbers were bad, and the part of one that a failure cut off",
    "evaluation": "held-out losses and samples",
    "save_stalls": "the loop stood still for a checkpoint",
    "borders": "the rest of the loop at its step borders, where it keeps snapshots and looks after its saves",
    "init": "from an attempt's number to its first word, without its load, and the change of stages",
    "load": "reading a checkpoint or snapshot, likewise",
    "detection": "from a failure to the word of it; from the last record where the moment is not known",
    "recovery": "from that word to the start of the next attempt",
    "resize": "from the save for another number of workers, or for a preemption, to the start of the next attempt",
    "waiting": "between gangs, for a back-off and for room; after a run that gave up, for someone to start it again",
    "in_line": "a submitted run's wait for its turn",
}

KINDS: Mapping[str, tuple[str, ...]] = {
    "step": ("steps",),
    "data wait": ("data_wait",),
    "evaluation": ("evaluation",),
    "save": ("save_stalls", "borders"),
    "restart": ("init", "load", "detection", "recovery", "resize"),
    "lost work": ("replayed",),
    "queue": ("waiting", "in_line"),
}
"""The causes, each in one kind: what is told at a glance."""

_UNWANTED = "unwanted"  # the time that is none of the run's
_IN_LINE = "in_line"
_IDLE = frozenset({_UNWANTED, "waiting", "recovery"})  # nobody works on a run that stands in line


@dataclass(frozen=True)
class Failure:
    """One end of an attempt that nobody asked for."""

    attempt: int
    kind: str  # of the event that tells of it; "silence": no event does
    reason: str
    rank: int | None
    node: str | None
    step: int  # the newest that was completed before it
    detection_seconds: float  # to the word of it; at most, where the moment of the failure is not known
    recovery_seconds: float | None  # from the word of it to the next step completed; None: there was none yet
    replayed_steps: int  # of this attempt, thrown away by it


@dataclass(frozen=True)
class Goodput:
    """How a run's time was spent."""

    wall_seconds: float
    ratio: float | None  # effective training time over wall time; None: no time has passed
    seconds: Mapping[str, float]  # by cause, see CAUSES; the sum is wall_seconds, but for rounding
    microseconds: Mapping[str, int]  # by kind, see KINDS; the sum is wall_microseconds, exactly
    wall_microseconds: int
    steps: int  # that count
    replayed_steps: int  # that were run and do not count
    failures: tuple[Failure, ...]
    resizes: tuple[tuple[int, int], ...]  # (world size before, after)
    world_sizes: tuple[int, ...]  # of the attempts that started, equal neighbours once
    excluded_sequences: int  # positions left out because they could not be read
    bad_steps: int  # steps with a bad loss or gradient
    failed_saves: int
    began: float  # unix seconds: the first attempt
    pauses: tuple[tuple[float, float], ...]  # unix seconds from, until: nobody wanted it to run, or it stood in line

    def run_seconds(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """The run's own time at those unix seconds: since its first attempt began, without the pauses."""
        passed = sum((np.clip(times - start, 0.0, end - start) for start, end in self.pauses), np.zeros(len(times)))
        own: NDArray[np.float64] = times - self.began - passed
        return own


def goodput(records: Iterable[Record], fence: Fence | None = None) -> Goodput:
    """Where the time of a run went; without records all is zero. `fence`: so that no outrun attempt's records count."""
    fence = fence or Fence()
    return goodput_of(believed_columns(columns_of(records), fence), fence)


def goodput_of(columns: Columns, fence: Fence) -> Goodput:
    """As `goodput`, of columns of which only the believed ones are left."""
    _, counted = counted_steps(columns)
    attempts = attempts_of(columns, counted, fence)
    spent = dict.fromkeys(CAUSES, 0)
    began = min((attempt.taken for attempt in attempts), default=0)
    pauses = []
    for cause, since, amount in _spent_and_in_line(columns, attempts, began):
        if cause != _UNWANTED:
            spent[cause] += amount
        if cause in (_UNWANTED, _IN_LINE) and amount > 0 and since >= began:
            pauses.append((since / 1e6, (since + amount) / 1e6))
    wall = sum(spent.values())
    sizes = _world_sizes(columns)
    return Goodput(
        wall_seconds=wall / 1e6,
        ratio=spent["steps"] / wall if wall > 0 else None,
        seconds={cause: amount / 1e6 for cause, amount in spent.items()},
        microseconds={kind: sum(spent[cause] for cause in causes) for kind, causes in KINDS.items()},
        wall_microseconds=wall,
        steps=int(counted.sum()),
        replayed_steps=int((~counted).sum()),
        failures=tuple(_failures(attempts)),
        resizes=tuple(pairwise(sizes)),
        world_sizes=sizes,
        excluded_sequences=sum(r["end"] - r["start"] for r in columns.of("excluded")),
        bad_steps=len(columns.of("bad_numbers")),
        failed_saves=len(columns.of("checkpoint_failed")),
        began=began / 1e6,
        pauses=tuple(pauses),
    )


def _world_sizes(columns: Columns) -> tuple[int, ...]:
    worlds = [record["world_size"] for record in columns.of("start") if "world_size" in record]
    return tuple(size for i, size in enumerate(worlds) if i == 0 or worlds[i - 1] != size)


Spent = Iterator[tuple[str, int, int]]


def _spent_and_in_line(columns: Columns, attempts: Sequence[Attempt], began: int) -> Spent:
    """As `_spent`, with the time in line. began: the first attempt, before which there is nothing else."""
    spans = spans_in_line(columns.events)
    yield from ((_IN_LINE, since, min(until, began) - since) for since, until in spans if since < began)
    yield from with_line(_spent(attempts), spans, _IN_LINE, _IDLE)


def _spent(attempts: Sequence[Attempt]) -> Spent:
    """(cause, since when, how long): the gaps before attempts that trained, those, and what came after the last."""
    if not attempts:
        return
    now = min(attempt.taken for attempt in attempts)
    before: list[Attempt] = []  # the last that trained, and those after it that did not come so far
    for attempt in attempts:
        if attempt.begin is None:
            before.append(attempt)
            continue
        began = max(now, attempt.begin)
        yield from _gap(before, attempt, now, began)
        last = max(began, attempt.last)
        yield from _within(attempt, began, last)
        now, before = last, [attempt]
    newest = max([now, *(attempt.last_word for attempt in attempts if attempt.is_heard_of)])
    if newest > now:
        yield from _gap(before, None, now, newest)


def _gap(before: Sequence[Attempt], attempt: Attempt | None, now: int, until: int) -> Spent:
    """The time from the last record of an attempt (or the run's beginning) to the start of the next that trained."""
    ending = before[0].ending if before and before[0].begin is not None else "none"
    if ending == "resize":
        yield "resize", now, until - now
        return
    if ending == "":
        yield from _failed_gap(before, now, until, attempt)
        return
    later = [*(a for a in before[1:] if ending != "none"), *([attempt] if attempt else [])]
    asked = min(until, max(now, min((a.taken for a in later), default=until)))
    if ending == "none":
        asked = now
    elif ending == "failed":
        gave_up = min(asked, max(now, before[0].gave_up))
        yield from _failed_gap(before[:1], now, gave_up, None)
        yield "waiting", gave_up, asked - gave_up
    else:
        yield _UNWANTED, now, asked - now
    load = min(until - asked, round(attempt.load_seconds * 1e6)) if attempt else 0
    yield "load", asked, load
    yield "init", asked + load, until - asked - load


def _failed_gap(before: Sequence[Attempt], now: int, until: int, attempt: Attempt | None) -> Spent:
    detected, failed = _moments(before, now, until, attempt)
    yield "replayed", now, failed - now
    yield "detection", failed, detected - failed
    waits = [_between_gangs(record) for attempt in before for record in attempt.watchers]
    waited = min(until - detected, max(0, sum(waits)))
    yield "waiting", detected, waited
    yield "recovery", detected + waited, until - detected - waited


def _moments(before: Sequence[Attempt], now: int, until: int, attempt: Attempt | None) -> tuple[int, int]:
    """When a failure was heard of, and when it happened; both between `now` and `until`."""
    word = before[0].word_of_failure() if before else None
    if word is None:
        return now, now
    times = [microseconds_of(word) - _between_gangs(word)]
    restart = _restart(attempt) if attempt is not None and len(before) == 1 else None
    if restart is not None:
        times.append(microseconds_of(restart) - round((number(restart, "seconds") or 0.0) * 1e6))
    detected = min(until, max(now, min(times)))
    silence = number(word, "detected_seconds")
    failed = now if silence is None else min(detected, max(now, detected - round(max(0.0, silence) * 1e6)))
    return detected, failed


def _between_gangs(record: Record) -> int:
    """Microseconds from a gang's end to the start of the next, of which the driver tells when it starts it."""
    seconds = (number(record, "after_seconds") or 0.0) if record.get("event") == "gang_restart" else 0.0
    return round(seconds * 1e6)


def _restart(attempt: Attempt) -> Record | None:
    return next((record for record in attempt.watchers if record.get("event") == "restart"), None)


def _within(attempt: Attempt, began: int, last: int) -> Spent:
    """The time of an attempt from its start to its last record, by what its records say; the rest is of borders."""
    seconds = whole_microseconds(attempt.steps["step_seconds"])
    waits = np.minimum(seconds, whole_microseconds(attempt.steps["data_wait_seconds"]))
    kept = attempt.counted
    told = {
        "steps": int((seconds - waits)[kept].sum()),
        "data_wait": int(waits[kept].sum()),
        "replayed": int(seconds[~kept].sum()),
        "evaluation": sum(_told(record, "seconds") for record in attempt.events if record.get("event") == "eval"),
        "save_stalls": sum(_stall(record) for record in attempt.events if record.get("event") == "checkpoint"),
        "init": 0,
    }
    for cause, amount in _since_the_record_before(attempt, began):
        told[cause] += amount
    told = _fitted(told, last - began)
    yield from ((cause, began, amount) for cause, amount in told.items())
    yield "borders", began, last - began - sum(told.values())


def _since_the_record_before(attempt: Attempt, began: int) -> Iterator[tuple[str, int]]:
    """The time that ended with an event: a step whose numbers were bad, and the making of another stage's engine."""
    causes = {"bad_numbers": "replayed", "stage": "init"}
    ends = [record for record in attempt.events if record.get("event") in causes]
    if not ends:
        return
    times = np.sort(
        np.concatenate([times_of(attempt.steps), [microseconds_of(record) for record in attempt.events], [began]])
    )
    for record in ends:
        before = int(np.searchsorted(times, microseconds_of(record), side="left"))
        yield causes[record["event"]], max(0, microseconds_of(record) - int(times[max(0, before - 1)]))


def _fitted(told: dict[str, int], total: int) -> dict[str, int]:
    """The amounts, made smaller in proportion where they are more than the whole: two kinds of clocks measure them."""
    whole = sum(told.values())
    if whole <= total:
        return told
    less = {cause: amount * total // whole for cause, amount in told.items()}
    largest = max(less, key=lambda cause: less[cause])
    return {**less, largest: less[largest] + total - sum(less.values())}


def _stall(record: Record) -> int:
    return _told(record, "seconds" if number(record, "stall_seconds") is None else "stall_seconds")


def _told(record: Record, key: str) -> int:
    return round(max(0.0, number(record, key) or 0.0) * 1e6)


def _failures(attempts: Sequence[Attempt]) -> Iterator[Failure]:
    """One for each attempt that neither ended nor is the newest; the newest too where its end was told."""
    for index, attempt in enumerate(attempts):
        word = attempt.word_of_failure()
        is_newest = index == len(attempts) - 1
        is_over = attempt.ending == "failed" or word is not None or not is_newest
        if attempt.ending in ("finished", "stopped", "resize") or not is_over:
            continue
        following = next((later for later in attempts[index + 1 :] if later.begin is not None), None)
        now = attempt.last
        until = attempt.last_word if following is None or following.begin is None else following.begin
        detected, failed = _moments([attempt], now, max(now, until), following)
        done = times_of(following.steps)[:1].tolist() if following is not None else []
        yield Failure(
            attempt=attempt.number,
            kind=str(word.get("kind", word["event"])) if word else "silence",
            reason=str(word.get("reason", "")) if word else "no word of its end",
            rank=word.get("rank") if word else None,
            node=word.get("node") if word else None,
            step=int(attempt.steps["step"].max(initial=0)),
            detection_seconds=(detected - failed) / 1e6,
            recovery_seconds=max(0.0, (done[0] - detected) / 1e6) if done else None,
            replayed_steps=int((~attempt.counted).sum()),
        )
