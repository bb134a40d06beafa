"""Where the time of a run went, from its journal. Pure: records in, seconds by cause out; they sum to the wall time.

The measure is Google's ML goodput and Meta's effective training time ratio: time spent on steps that count, each once,
over the wall time. A run's wall time goes from its first attempt's number to its last record, without the time in which
nobody wanted it to run: from a stop on request, or the end, to the next attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from monitoring.history import WATCHERS_EVENTS, Fence, believed
from monitoring.journal import Record, is_step, last_values, number

CAUSES: Mapping[str, str] = {
    "steps": "steps that count, without their wait for data: what a run is for",
    "data_wait": "waiting for the batches of those steps",
    "replayed": "steps that were run again later, and the part of a step that a failure cut off",
    "evaluation": "held-out losses and samples",
    "save_stalls": "the loop stood still for a checkpoint",
    "init": "from an attempt's number to its first word, without its load; attempts after a failure are recovery",
    "load": "reading a checkpoint or snapshot, likewise",
    "detection": "from a failure to the word of it; from the last record where the moment is not known",
    "recovery": "from that word to the start of the next attempt",
    "waiting": "between gangs, for a back-off and for room; after a run that gave up, for someone to start it again",
    "resize": "from the save for another number of workers, or for a preemption, to the start of the next attempt",
    "other": "the rest within attempts: between steps, and since the newest record of one that runs or broke off",
}

_ASKED_FOR = ("made_way", "preemption")  # kinds of `gang_restart` that follow a save, not a failure


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
    seconds: Mapping[str, float]  # by cause, see CAUSES; the sum is wall_seconds
    steps: int  # that count
    replayed_steps: int  # that were run and do not count
    failures: tuple[Failure, ...]
    resizes: tuple[tuple[int, int], ...]  # (world size before, after)
    world_sizes: tuple[int, ...]  # of the attempts that started, equal neighbours once
    excluded_sequences: int  # positions left out because they could not be read
    bad_steps: int  # steps with a bad loss or gradient
    failed_saves: int


@dataclass
class _Attempt:
    """What one attempt's own processes wrote, by time, and what was written of it."""

    number: int
    taken: float
    records: list[Record] = field(default_factory=list)
    watchers: list[Record] = field(default_factory=list)

    @property
    def start(self) -> Record | None:
        """The first record of one that got as far as training."""
        return next((record for record in self.records if record.get("event") == "start" or is_step(record)), None)

    @property
    def steps(self) -> list[Record]:
        return [record for record in self.records if is_step(record)]

    @property
    def last_time(self) -> float:
        return max((float(record["time"]) for record in self.records), default=self.taken)

    @property
    def ending(self) -> str:
        """finished, stopped, failed, resize, or empty for one that broke off."""
        for record in reversed(self.records):
            if record.get("event") == "end":
                # A stop that the driver follows by a gang of its own accord is no stop: a resize, or a preemption.
                goes_on = record["status"] == "stopped" and any(w["event"] == "gang_restart" for w in self.watchers)
                return "resize" if goes_on else str(record["status"])
        if any(watcher.get("kind") in _ASKED_FOR for watcher in self.watchers):
            return "resize"
        return "failed" if any(watcher["event"] == "end" for watcher in self.watchers) else ""

    @property
    def gave_up_time(self) -> float:
        """When the driver gave up, for one that failed."""
        return max(float(watcher["time"]) for watcher in self.watchers if watcher["event"] == "end")

    def word_of_failure(self) -> Record | None:
        """The event that tells of its end: a rank's death, else the restart of the gang."""
        by_name = {record["event"]: record for record in reversed(self.watchers)}
        return by_name.get("rank_dead") or by_name.get("hang") or by_name.get("fenced") or by_name.get("gang_restart")


def goodput(records: Iterable[Record], fence: Fence | None = None) -> Goodput:
    """Where the time of a run went; without records all is zero. `fence`: so that no outrun attempt's records count."""
    fence = fence or Fence()
    kept = believed(records, fence)
    counted = {id(record) for record in last_values(kept).values()}
    attempts = _attempts(kept, fence)
    seconds = dict.fromkeys(CAUSES, 0.0)
    for cause, amount in _spent(attempts, counted):
        seconds[cause] += amount
    wall = sum(seconds.values())
    worlds = [record["world_size"] for record in kept if record.get("event") == "start" and "world_size" in record]
    sizes = tuple(size for i, size in enumerate(worlds) if i == 0 or worlds[i - 1] != size)
    return Goodput(
        wall_seconds=wall,
        ratio=seconds["steps"] / wall if wall > 0 else None,
        seconds=seconds,
        steps=len(counted),
        replayed_steps=sum(is_step(record) for record in kept) - len(counted),
        failures=tuple(_failures(attempts, counted)),
        resizes=tuple(pairwise(sizes)),
        world_sizes=sizes,
        excluded_sequences=sum(r["end"] - r["start"] for r in kept if r.get("event") == "excluded"),
        bad_steps=sum(record.get("event") == "bad_numbers" for record in kept),
        failed_saves=sum(record.get("event") == "checkpoint_failed" for record in kept),
    )


def _attempts(records: Sequence[Record], fence: Fence) -> list[_Attempt]:
    found = {n: _Attempt(n, time) for n, time in fence.taken.items()}
    for record in sorted(records, key=lambda record: float(record["time"])):
        n = record["attempt"]
        attempt = found.setdefault(n, _Attempt(n, float(record["time"])))
        (attempt.watchers if _is_of_watchers(record) else attempt.records).append(record)
    return [attempt for _, attempt in sorted(found.items())]


def _is_of_watchers(record: Record) -> bool:
    """Whether a supervisor or the driver wrote it; the driver writes the end of a run that failed."""
    return record.get("event") in WATCHERS_EVENTS or (record.get("event") == "end" and record["status"] == "failed")


Spent = Iterator[tuple[str, float]]


def _spent(attempts: Sequence[_Attempt], counted: set[int]) -> Spent:
    """(cause, seconds): the gaps before attempts that trained, those attempts, and what came after the last."""
    if not attempts:
        return
    now = min(attempt.taken for attempt in attempts)
    before: list[_Attempt] = []  # the last that trained, and those after it that did not come so far
    for attempt in attempts:
        if attempt.start is None:
            before.append(attempt)
            continue
        began = max(now, float(attempt.start["time"]))
        yield from _gap(before, attempt, now, began)
        last = max(began, attempt.last_time)
        yield from _within(attempt, last - began, counted)
        now, before = last, [attempt]
    newest = max((float(r["time"]) for a in attempts for r in (*a.records, *a.watchers)), default=now)
    if newest > now:
        yield from _gap(before, None, now, newest)


def _gap(before: Sequence[_Attempt], attempt: _Attempt | None, now: float, until: float) -> Spent:
    """The time from the last record of an attempt (or the run's beginning) to the start of the next that trained."""
    ending = before[0].ending if before and before[0].start is not None else "none"
    if ending == "resize":
        yield "resize", until - now
        return
    if ending == "":
        yield from _failed_gap(before, now, until, attempt)
        return
    later = [*(a for a in before[1:] if ending != "none"), *([attempt] if attempt else [])]
    asked = min(until, max(now, min((a.taken for a in later), default=until)))
    if ending == "none":
        asked = now
    elif ending == "failed":
        gave_up = min(asked, max(now, before[0].gave_up_time))
        yield from _failed_gap(before[:1], now, gave_up, None)
        yield "waiting", asked - gave_up
    load = (
        min(until - asked, max(0.0, number(attempt.start, "load_seconds") or 0.0)) if attempt and attempt.start else 0.0
    )
    yield "load", load
    yield "init", until - asked - load


def _failed_gap(before: Sequence[_Attempt], now: float, until: float, attempt: _Attempt | None) -> Spent:
    detected, failed = _moments(before, now, until, attempt)
    yield "replayed", failed - now
    yield "detection", detected - failed
    waits = [_between_gangs(record) for attempt in before for record in attempt.watchers]
    waited = min(until - detected, max(0.0, sum(waits)))
    yield "waiting", waited
    yield "recovery", until - detected - waited


def _moments(before: Sequence[_Attempt], now: float, until: float, attempt: _Attempt | None) -> tuple[float, float]:
    """When a failure was heard of, and when it happened; both between `now` and `until`."""
    word = before[0].word_of_failure() if before else None
    if word is None:
        return now, now
    times = [float(word["time"]) - _between_gangs(word)]
    restart = _restart(attempt) if attempt is not None and len(before) == 1 else None
    if restart is not None:
        times.append(float(restart["time"]) - (number(restart, "seconds") or 0.0))
    detected = min(until, max(now, min(times)))
    silence = number(word, "detected_seconds")
    failed = now if silence is None else min(detected, max(now, detected - max(0.0, silence)))
    return detected, failed


def _between_gangs(record: Record) -> float:
    """Seconds from a gang's end to the start of the next, of which the driver tells when it starts it."""
    return (number(record, "after_seconds") or 0.0) if record.get("event") == "gang_restart" else 0.0


def _restart(attempt: _Attempt) -> Record | None:
    return next((record for record in attempt.watchers if record.get("event") == "restart"), None)


def _within(attempt: _Attempt, total: float, counted: set[int]) -> Spent:
    """The time of an attempt from its start to its last record, by what its records say; the rest is other."""
    spent = dict.fromkeys(("steps", "data_wait", "replayed", "evaluation", "save_stalls"), 0.0)
    for record in attempt.records:
        for cause, amount in _told(record, id(record) in counted):
            spent[cause] += max(0.0, amount)
    told = sum(spent.values())
    # Clocks of two kinds measure the parts and the whole.
    scale = 1.0 if told <= total or told == 0.0 else total / told
    yield from ((cause, amount * scale) for cause, amount in spent.items())
    yield "other", max(0.0, total - told)


def _told(record: Record, counts: bool) -> Spent:
    if is_step(record):
        seconds = max(0.0, number(record, "step_seconds") or 0.0)
        waited = min(seconds, max(0.0, number(record, "data_wait_seconds") or 0.0))
        yield ("steps" if counts else "replayed"), seconds - waited
        yield ("data_wait" if counts else "replayed"), waited
    elif record.get("event") == "eval":
        yield "evaluation", number(record, "seconds") or 0.0
    elif record.get("event") == "checkpoint":
        stall = number(record, "stall_seconds")
        yield "save_stalls", (number(record, "seconds") or 0.0) if stall is None else stall


def _failures(attempts: Sequence[_Attempt], counted: set[int]) -> Iterator[Failure]:
    """One for each attempt that neither ended nor is the newest; the newest too where its end was told."""
    for index, attempt in enumerate(attempts):
        word = attempt.word_of_failure()
        is_newest = index == len(attempts) - 1
        is_over = attempt.ending == "failed" or word is not None or not is_newest
        if attempt.ending in ("finished", "stopped", "resize") or not is_over:
            continue
        following = next((later for later in attempts[index + 1 :] if later.start is not None), None)
        until = float(following.start["time"]) if following is not None and following.start else float("inf")
        now = attempt.last_time
        detected, failed = _moments([attempt], now, max(now, until), following)
        done = [float(step["time"]) for step in following.steps] if following is not None else []
        yield Failure(
            attempt=attempt.number,
            kind=str(word.get("kind", word["event"])) if word else "silence",
            reason=str(word.get("reason", "")) if word else "no word of its end",
            rank=word.get("rank") if word else None,
            node=word.get("node") if word else None,
            step=max((record["step"] for record in attempt.steps), default=0),
            detection_seconds=detected - failed,
            recovery_seconds=max(0.0, done[0] - detected) if done else None,
            replayed_steps=sum(id(record) not in counted for record in attempt.steps),
        )
