"""Whether a disturbed run kept every promise, from what it and an undisturbed one left behind. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from cluster.chaos.evidence import Evidence
from cluster.chaos.injection import Injection
from cluster.chaos.plan import CHECKPOINT_KINDS, NUMBER_KINDS
from monitoring.journal import Record, is_step, last_values, number

FIRST_LOSS_TOLERANCE = 1e-6
"""Relative; of the first step at another world size."""
LATER_LOSS_TOLERANCE = 1e-3
"""Relative; of the steps after it, over which rounding differences grow."""
SUPERVISOR_GONE_SECONDS, DRIVER_GONE_SECONDS = 3.0, 5.0
_GONE_SECONDS = {
    **dict.fromkeys(("kill_supervisor", "kill_raylet", "kill_node"), SUPERVISOR_GONE_SECONDS),
    **dict.fromkeys(("kill_driver", "kill_head"), DRIVER_GONE_SECONDS),
}
_DETECTIONS = frozenset(
    ("rank_dead", "gang_restart", "resize", "start", "restart", "end", "bad_numbers", "slow_rank", "checkpoint_bad")
)
_NAMES_ITS_RANK = frozenset(
    ("kill_rank", "stop_rank", "kill", "stop", "oom_kill", "exception", "out_of_memory", "exit")
)
_STOPPED_STATUS = 3
_SHOWN = 3


@dataclass(frozen=True)
class Limits:
    """What the run's own settings promise.

    checkpoint_steps: between checkpoints, or as many as the interval's time took at most; hang_seconds: the limit of
    silence; has_dropout: then losses at another world size are other ones.
    """

    checkpoint_steps: int
    hang_seconds: float
    has_dropout: bool


@dataclass(frozen=True)
class Outcome:
    """What followed a fault. Seconds from the fault; None where it did not come. problems: promises not kept."""

    injection: Injection
    detected_seconds: float | None
    new_step_seconds: float | None
    replayed_steps: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Promise:
    """Something that must hold of the whole run, and what was found; no problems: it held."""

    name: str
    found: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """The whole judgement."""

    outcomes: tuple[Outcome, ...]
    promises: tuple[Promise, ...]

    @property
    def held(self) -> bool:
        """Whether every promise did."""
        return not any([*(o.problems for o in self.outcomes), *(p.problems for p in self.promises)])


def judge(
    calm: Evidence, rough: Evidence, injections: Sequence[Injection], not_done: Sequence[int], limits: Limits
) -> Verdict:
    """The verdict on the disturbed run `rough`, compared with the undisturbed `calm`.

    not_done: places in the plan of faults that did not come about.
    """
    ordered = sorted(injections, key=lambda injection: injection.time)
    outcomes = tuple(outcome(rough.records, ordered, place, limits) for place in range(len(ordered)))
    numbers = any(injection.fault.kind in NUMBER_KINDS for injection in ordered)
    checks = [
        _injected(ordered, not_done),
        _finished(rough),
        _every_step(calm, rough),
        _no_processes(rough),
        _checkpoints(rough, ordered),
        _mlflow(rough),
    ]
    if not numbers:
        checks += [_same_data(calm, rough), _same_losses(calm, rough, limits), _same_weights(calm, rough)]
    return Verdict(outcomes, tuple(checks))


# ---- what followed a fault


def outcome(records: Sequence[Record], ordered: Sequence[Injection], place: int, limits: Limits) -> Outcome:
    """What followed the fault at that place among all faults in the order of time."""
    injection = ordered[place]
    began = injection.time
    end = min((other.time for other in ordered[place + 1 :] if other.time > began), default=math.inf)
    after = [record for record in records if record["time"] > began]
    events = [r for r in after if r.get("event") in _DETECTIONS and r["time"] < end]
    before, new_step, replayed = _recovery(records, began, end)
    blurred = any(other.time < (new_step or math.inf) for other in ordered[place + 1 :])
    detected = min((record["time"] for record in events), default=None)
    result = Outcome(injection, _since(began, detected), _since(began, new_step), replayed, ())
    problems = [*_own_problems(injection)]
    if not blurred:
        dead_ranks = [record["rank"] for record in events if record["event"] == "rank_dead"]
        problems += _recovery_problems(result, dead_ranks, before, limits, ordered)
    return replace(result, problems=tuple(problems))


def _recovery(records: Sequence[Record], began: float, end: float) -> tuple[int, float | None, int]:
    """After a fault at `began`: the newest step before, the time of the next new one, and how many were run again.

    Where the fault ended an attempt, steps that it still completed are steps before. `end` is when the next fault came.
    """
    steps = [record for record in records if is_step(record)]
    attempt = max((record["attempt"] for record in records if record["time"] <= began), default=0)
    newer = [record for record in steps if record["attempt"] > attempt]
    if any(record["attempt"] > attempt and record["time"] < end for record in records):
        before = max((record["step"] for record in steps if record["attempt"] <= attempt), default=0)
    else:
        before, newer = newest_step_before(records, began), [r for r in steps if r["time"] > began]
    new_step = min((record["time"] for record in newer if record["step"] > before), default=None)
    return before, new_step, len({r["step"] for r in newer if r["step"] <= before and r["time"] < end})


def newest_step_before(records: Sequence[Record], moment: float) -> int:
    """The highest step in the journal at a moment, 0 if there was none."""
    return max((record["step"] for record in records if is_step(record) and record["time"] <= moment), default=0)


def _since(began: float, moment: float | None) -> float | None:
    return None if moment is None else moment - began


def _own_problems(injection: Injection) -> Iterator[str]:
    """What can be held against the run whatever else happened meanwhile."""
    kind = injection.fault.kind
    if kind in _GONE_SECONDS and not _within(injection.gone_seconds, _GONE_SECONDS[kind]):
        yield f"its processes ended after {_text(injection.gone_seconds)}, allowed are {_GONE_SECONDS[kind]:g} s"
    if kind == "terminate_driver" and injection.exit_status != _STOPPED_STATUS:
        yield f"the driver's exit status was {injection.exit_status}, must be {_STOPPED_STATUS}"


def _recovery_problems(
    result: Outcome, dead_ranks: Sequence[int], before: int, limits: Limits, ordered: Sequence[Injection]
) -> Iterator[str]:
    """What can be held against it if no other fault came before the next new step."""
    injection, kind = result.injection, result.injection.fault.kind
    if result.new_step_seconds is None:
        yield f"no step above {before} followed"
    if kind in _NAMES_ITS_RANK and dead_ranks[:1] != [injection.fault.rank]:
        yield f"rank {injection.fault.rank} was to be named, found {dead_ranks[:1] or 'none'}"
    if kind == "stop_rank" and not _within(result.detected_seconds, 2 * limits.hang_seconds):
        yield f"detected after {_text(result.detected_seconds)}, allowed are {2 * limits.hang_seconds:g} s"
    allowed = _allowed_replay(injection, limits, ordered)
    if result.replayed_steps > allowed:
        yield f"{result.replayed_steps} steps were run again, allowed are {allowed}"


def _allowed_replay(injection: Injection, limits: Limits, ordered: Sequence[Injection]) -> int:
    """None after a request to stop; otherwise what lies after the newest checkpoint, or the one before if damaged.

    A checkpoint counts only once it is whole on disk, so that the newest may be up to two intervals old.
    """
    if injection.fault.kind == "terminate_driver":
        return 0
    damaged = sum(other.fault.kind in CHECKPOINT_KINDS and other.time <= injection.time for other in ordered)
    return limits.checkpoint_steps * (2 + damaged)


def _within(seconds: float | None, limit: float) -> bool:
    return seconds is not None and seconds <= limit


def _text(seconds: float | None) -> str:
    return "no time that was seen" if seconds is None else f"{seconds:.2f} s"


# ---- what must hold of the whole run


def _injected(injections: Sequence[Injection], not_done: Sequence[int]) -> Promise:
    problems = tuple(f"fault {index} of the plan did not come about" for index in not_done)
    return Promise("every fault came about", f"{len(injections)} did", problems)


def _finished(rough: Evidence) -> Promise:
    ends = [record["status"] for record in rough.records if record.get("event") == "end"]
    problems = []
    if rough.exit_status != 0:
        problems.append(f"the driver's exit status was {rough.exit_status}; it said: {_last_line(rough.log_tail)}")
    if ends[-1:] != ["finished"]:
        problems.append(f"the journal ends with {ends[-1:] or 'no end'}")
    return Promise("the run finished", f"exit status {rough.exit_status}", tuple(problems))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1]


def _every_step(calm: Evidence, rough: Evidence) -> Promise:
    wanted, found = last_values(calm.records), last_values(rough.records)
    lacking, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    problems = [f"step {step} is not in the journal" for step in lacking[:_SHOWN]]
    problems += [f"step {step} is in the journal, and not in the undisturbed run's" for step in extra[:_SHOWN]]
    unlike = [step for step in found.keys() & wanted.keys() if not math.isfinite(number(found[step], "loss") or 0.0)]
    problems += [f"step {step} has a loss that is not finite" for step in sorted(unlike)[:_SHOWN]]
    return Promise("every step is there", f"{len(found)} of {len(wanted)} steps", tuple(problems))


def _same_data(calm: Evidence, rough: Evidence) -> Promise:
    """The ledger: tokens consumed and the hash of the sequences, of each step; also of those that were run again."""
    wanted = {step: (r["tokens"], r["sequence_hash"]) for step, r in last_values(calm.records).items()}
    steps = [record for record in rough.records if is_step(record)]
    unlike = sorted({r["step"] for r in steps if wanted.get(r["step"]) != (r["tokens"], r["sequence_hash"])})
    problems = tuple(f"step {step} saw other sequences than in the undisturbed run" for step in unlike[:_SHOWN])
    found = "each step saw the sequences of the undisturbed run: none lost, none doubled"
    return Promise("same data", found if not unlike else f"{len(unlike)} steps differ", problems)


def world_sizes(records: Sequence[Record]) -> dict[int, int]:
    """The world size of each attempt that says it."""
    return {r["attempt"]: r["world_size"] for r in records if r.get("event") == "start" and "world_size" in r}


def _same_losses(calm: Evidence, rough: Evidence, limits: Limits) -> Promise:
    """To the last bit until the world size first changes, and to within rounding after that."""
    wanted = last_values(calm.records)
    home = next(iter(world_sizes(calm.records).values()), None)
    sizes = world_sizes(rough.records)
    away = min((attempt for attempt, size in sizes.items() if size != home), default=math.inf)
    steps = [record for record in rough.records if is_step(record) and record["step"] in wanted]
    exact = [r["step"] for r in steps if r["attempt"] < away and r["loss_hex"] != wanted[r["step"]]["loss_hex"]]
    problems = [f"step {step}'s loss is not bit-equal" for step in sorted(set(exact))[:_SHOWN]]
    resized = [record for record in steps if record["attempt"] >= away]
    if resized and limits.has_dropout:
        found = "bit-equal until the world size changed; not comparable after that, since there is dropout"
    elif resized:
        differences = [_relative(record, wanted[record["step"]]) for record in resized]
        problems += _rounding_problems(resized, differences)
        found = f"within {max(differences):.1e} (relative) after the world size changed, bit-equal before"
    else:
        found = f"all {len(steps)} records are bit-equal, steps that were run again included"
    return Promise("same losses", found, tuple(problems))


def _relative(record: Mapping[str, float], wanted: Mapping[str, float]) -> float:
    return abs(record["loss"] - wanted["loss"]) / max(abs(wanted["loss"]), 1e-12)


def _rounding_problems(resized: Sequence[Record], differences: Sequence[float]) -> list[str]:
    limits = [FIRST_LOSS_TOLERANCE, *[LATER_LOSS_TOLERANCE] * (len(resized) - 1)]
    judged = zip(resized, differences, limits, strict=True)
    return [
        f"step {record['step']}'s loss differs by {difference:.1e}, allowed are {limit:.0e}"
        for record, difference, limit in judged
        if difference > limit
    ][:_SHOWN]


def _same_weights(calm: Evidence, rough: Evidence) -> Promise:
    """The last checkpoint's files, bit for bit, where the world size never changed."""
    sizes = set(world_sizes(calm.records).values()) | set(world_sizes(rough.records).values())
    name = "same final weights"
    if len(sizes) > 1:
        return Promise(name, f"world sizes {sorted(sizes)}: not to be compared bit for bit", ())
    wanted, found = ([c.hashes for c in e.checkpoints if c.step == _last_step(calm)][-1:] for e in (calm, rough))
    problems = () if wanted and wanted == found else ("the last checkpoint's files differ, or one has none",)
    return Promise(name, "weights and optimizer moments bit-equal" if not problems else "they differ", problems)


def _last_step(evidence: Evidence) -> int:
    return max(last_values(evidence.records), default=0)


def _checkpoints(rough: Evidence, injections: Sequence[Injection]) -> Promise:
    damaged = {injection.path for injection in injections if injection.path is not None}
    bad = [c for c in rough.checkpoints if c.problems and c.path not in damaged]
    problems = [f"{checkpoint.path}: {checkpoint.problems[0]}" for checkpoint in bad[:_SHOWN]]
    if not rough.checkpoints or rough.checkpoints[-1].problems:
        problems.append("the newest checkpoint is not whole")
    whole = sum(not checkpoint.problems for checkpoint in rough.checkpoints)
    return Promise("checkpoints are whole", f"{whole} of {len(rough.checkpoints)}", tuple(problems))


def _no_processes(rough: Evidence) -> Promise:
    found = f"{len(rough.left_over)} left"
    return Promise("no process is left", found, rough.left_over[:_SHOWN])


def _mlflow(rough: Evidence) -> Promise:
    """One point of every metric of a step, with the value that the journal has."""
    wanted = {
        step: {key: number(r, key) for key in ("loss", "grad_norm")} for step, r in last_values(rough.records).items()
    }
    problems: list[str] = []
    for key in ("loss", "grad_norm"):
        points = [(step, value) for name, step, value in rough.points if name == key]
        steps = [step for step, _ in points]
        problems += [f"{key} of step {a} is there twice" for a, b in pairwise(sorted(steps)) if a == b][:_SHOWN]
        problems += [f"{key} of step {step} is not there" for step in sorted(wanted.keys() - set(steps))][:_SHOWN]
        unlike = sorted(step for step, value in points if step in wanted and wanted[step][key] not in (None, value))
        problems += [f"{key} of step {step} is not the journal's" for step in unlike][:_SHOWN]
    found = f"{len(rough.points)} points"
    return Promise("MLflow has each point once", found, tuple(problems))
