"""How a run is now, from its journal and from who drives it. Pure: records and facts in, a status out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from monitoring.goodput import Goodput, goodput
from monitoring.history import Fence, believed
from monitoring.journal import Record, last_values, number, without_nonfinite
from monitoring.rank_times import slowest_rank_text
from monitoring.units import duration

STALLED_SECONDS = 60.0
_STALLED_STEPS = 20.0
_SPEED_STEPS = 20


@dataclass(frozen=True)
class RunStatus:
    """A run at a moment. Losses are in nats per token."""

    name: str
    run_id: str
    state: str  # preparing | running | stalled | stopped | finished | failed
    detail: str  # who drives it, or why it does not go on; may be empty
    step: int
    total_steps: int | None  # None: no attempt has started
    tokens: int
    total_tokens: int | None
    loss: float | None
    val_loss: float | None
    tokens_per_second: float | None  # median of the newest steps
    seconds_left: float | None
    checkpoint_step: int | None
    attempts: int
    quiet_seconds: float | None  # since the newest record
    slowest_rank: str | None  # at the newest look at all ranks
    goodput: Goodput


def run_status(
    name: str, run_id: str, records: Sequence[Record], fence: Fence, *, driver: str | None, now: float
) -> RunStatus:
    """The status of a run. driver: who holds its folder, None if nobody does; now: unix seconds."""
    kept = believed(records, fence)
    steps = list(last_values(kept).values())
    start = _newest(kept, "start") or {}
    newest = steps[-1] if steps else {"step": start.get("resumed_step", 0), "tokens": 0}
    speeds = [speed for step in steps[-_SPEED_STEPS:] if (speed := number(step, "tokens_per_second"))]
    speed = statistics.median(speeds) if speeds else None
    total_tokens = start.get("max_tokens")
    left = None if total_tokens is None or speed is None else max(0, total_tokens - newest["tokens"]) / speed
    quiet = max(0.0, now - max(float(record["time"]) for record in kept)) if kept else None
    state, detail = _state(kept, steps, driver, quiet)
    return RunStatus(
        name=name,
        run_id=run_id,
        state=state,
        detail=detail,
        step=newest["step"],
        total_steps=start.get("max_steps"),
        tokens=newest["tokens"],
        total_tokens=total_tokens,
        loss=number(newest, "loss"),
        val_loss=number(_newest(kept, "eval") or {}, "val_loss"),
        tokens_per_second=speed,
        seconds_left=left if state in ("running", "stalled") else None,
        checkpoint_step=(_newest(kept, "checkpoint") or {}).get("step"),
        attempts=len({*fence.taken, *(record["attempt"] for record in records)}),
        quiet_seconds=quiet,
        slowest_rank=slowest_rank_text([record for record in kept if record.get("event") == "rank_times"]),
        goodput=goodput(records, fence),
    )


def _newest(records: Sequence[Record], event: str) -> Record | None:
    found = [record for record in records if record.get("event") == event]
    return max(found, key=lambda record: (record["attempt"], record["time"])) if found else None


def _state(
    records: Sequence[Record], steps: Sequence[Record], driver: str | None, quiet: float | None
) -> tuple[str, str]:
    if driver is None:
        return _state_at_rest(records)
    if quiet is None:
        return "preparing", f"by {driver}"
    paces = [seconds for step in steps[-_SPEED_STEPS:] if (seconds := number(step, "step_seconds"))]
    usual = max([*paces, number(_newest(records, "eval") or {}, "seconds") or 0.0], default=0.0)
    if quiet > max(STALLED_SECONDS, _STALLED_STEPS * usual) and not _has_ended(records):
        return "stalled", f"by {driver}; nothing new for {duration(quiet)}, see the logs in its folder"
    return "running", f"by {driver}"


def _has_ended(records: Sequence[Record]) -> bool:
    end, start = _newest(records, "end"), _newest(records, "start")
    return end is not None and (start is None or end["attempt"] >= start["attempt"])


def _state_at_rest(records: Sequence[Record]) -> tuple[str, str]:
    if not records:
        return "stopped", "it has not trained yet; the same command starts it"
    end = _newest(records, "end")
    if end is not None and _has_ended(records):
        if end["status"] == "failed":
            death = _newest(records, "rank_dead") or _newest(records, "gang_restart") or {}
            return "failed", str(death.get("reason", ""))
        details = {"stopped": "with a checkpoint; the same command goes on from it"}
        return str(end["status"]), details.get(end["status"], "")
    return "failed", "its driver ended without a word; the same command goes on from the newest checkpoint"


def to_dict(status: RunStatus) -> dict[str, Any]:
    """The status as JSON takes it; NaN and infinities become null."""
    plain: dict[str, Any] = without_nonfinite(asdict(status))
    return plain


def to_text(status: RunStatus) -> str:
    """The status for people, some lines."""
    rows = [
        ("run", f"{status.name} ({status.run_id})"),
        ("state", f"{status.state} {status.detail}".strip()),
        ("step", _of(status.step, status.total_steps)),
        ("tokens", _of(status.tokens, status.total_tokens)),
        ("loss", _losses(status)),
        ("speed", _speed(status)),
        ("checkpoint", "none" if status.checkpoint_step is None else f"step {status.checkpoint_step:,}"),
        ("attempts", _attempts(status)),
        ("slowest", status.slowest_rank or ""),
        ("goodput", goodput_text(status.goodput)),
    ]
    lines = [f"{label:<11} {text}" for label, text in rows if text]
    lines += [f"failure     {_failure(failure)}" for failure in map(asdict, status.goodput.failures[-5:])]
    return "\n".join(lines)


def goodput_text(spent: Goodput) -> str:
    """The effective-training-time ratio, and the other kinds of time by size."""
    if spent.ratio is None:
        return ""
    others = sorted(
        ((us, kind) for kind, us in spent.microseconds.items() if kind != "step" and us >= 50_000), reverse=True
    )
    shares = ", ".join(f"{kind} {us / 1e6:.1f} s" for us, kind in others)
    return f"{spent.ratio:.1%} of {duration(spent.wall_seconds)} in steps that count" + (shares and f"; {shares}")


def _of(value: int, total: int | None) -> str:
    return f"{value:,}" if total is None else f"{value:,} of {total:,}"


def _losses(status: RunStatus) -> str:
    losses = {"train": status.loss, "held out": status.val_loss}
    return ", ".join(f"{loss:.4f} {which}" for which, loss in losses.items() if loss is not None)


def _speed(status: RunStatus) -> str:
    if status.tokens_per_second is None:
        return ""
    left = "" if status.seconds_left is None else f", {duration(status.seconds_left)} left"
    return f"{status.tokens_per_second:,.0f} tokens/s{left}"


def _attempts(status: RunStatus) -> str:
    spent = status.goodput
    worlds = " -> ".join(map(str, spent.world_sizes))
    parts = [f"{status.attempts}", f"{len(spent.failures)} failures", f"{spent.replayed_steps} steps run again"]
    return ", ".join([*parts, *([f"workers {worlds}"] if worlds else [])])


def _failure(failure: Mapping[str, Any]) -> str:
    where = "" if failure["rank"] is None else f"rank {failure['rank']} on {failure['node']}: "
    told = failure["recovery_seconds"]
    since = "its last record" if failure["kind"] == "silence" else "the word of it"
    after = "" if told is None else f"; the next step came {told:.1f} s after {since}"
    return f"attempt {failure['attempt']} after step {failure['step']:,}: {where}{failure['reason']}{after}"
