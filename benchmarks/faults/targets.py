"""What is promised of recovery, and whether it was reached. Pure: from the results as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.faults.arms import HEADRACE, TORCHRUN
from benchmarks.faults.goodput import bound
from benchmarks.faults.snapshots import CLUSTER, WITH, WITHOUT
from benchmarks.faults.trace import restarts_of, stops_of
from benchmarks.harness.stats import Estimate, estimate, ratio
from benchmarks.harness.targets import Promise, Target, Unmeasured

TORCHRUN_TIMES, MOST_SECONDS = 8.0, 1.0
MOST_LOST_STEPS, MOST_SNAPSHOT_SHARE = 1.0, 0.05
LEAST_OF_BOUND, PEER_TIMES = 0.9, 2.0
HANG_SECONDS = 5.0
"""Headrace's limit for a rank without a sign of life, where steps are below half a second (`cluster.hang_seconds`);
taken where the journal does not tell after how long a hang was told."""

Kills = Sequence[Mapping[str, Any]]


def column(kills: Kills, key: str) -> list[float]:
    """One figure of all kills."""
    return [float(kill[key]) for kill in kills]


def single(value: float) -> Estimate:
    """A figure that there is one of."""
    return Estimate(value, value, value)


def kills_of(results: Mapping[str, Any], part: str, arm: str) -> Kills:
    """An arm's kills in a part; none where it was not run."""
    found: Kills = results.get(part, {}).get("kills", {}).get(arm, [])
    return found


def lost_per_kill(results: Mapping[str, Any]) -> Estimate | None:
    """Seconds that a single kill cost Headrace, by itself, in the same run; None without kills."""
    kills = kills_of(results, "recovery", HEADRACE) or kills_of(results, "lost", HEADRACE)
    return estimate(column(kills, "lost_seconds")) if kills else None


def hang_seconds(storm: Mapping[str, Any]) -> float:
    """For how long Headrace waited before ranks that stood still were told to."""
    own = storm["arms"][HEADRACE]
    return sum(own["hang_seconds"]) or stops_of(own["done"]) * HANG_SECONDS


def bound_of(results: Mapping[str, Any]) -> float | None:
    """What Headrace's goodput can be at most, by what kills cost it in the same run; None without those."""
    lost, storm = lost_per_kill(results), results.get("storm", {})
    if lost is None or HEADRACE not in storm.get("arms", {}):
        return None
    own = storm["arms"][HEADRACE]
    return bound(storm["seconds"], restarts_of(own["done"]), lost.median, hang_seconds(storm) + own["stall_seconds"])


def snapshot_cost(results: Mapping[str, Any]) -> Estimate:
    """What snapshots add to a step, as a share of it."""
    runs = results["snapshots"]["runs"]
    found = ratio(column(runs[WITH], "step_seconds"), column(runs[WITHOUT], "step_seconds"))
    return Estimate(found.median - 1, found.low - 1, found.high - 1)


def targets(results: Mapping[str, Any]) -> list[Promise]:
    """All promises, also those of which the results know nothing."""
    return [*_of_recovery(results), *_of_lost(results), *_of_snapshots(results), *_of_storm(results)]


def missing(results: Mapping[str, Any], part: str, kind: str, names: Sequence[str]) -> str | None:
    """Why the first of the names that a part has nothing of is missing there; None where all are there."""
    if part not in results:
        return "this part was not run"
    for name in names:
        if not results[part][kind].get(name):
            failed = results[part].get("failed", {})
            reasons = failed.get(name) or failed.get(CLUSTER) or ["it was not run"]
            return f"{name}: {reasons[0]}"
    return None


def _of_recovery(results: Mapping[str, Any]) -> Iterator[Promise]:
    what = "SIGKILL to the next new step, s"
    if reason := missing(results, "recovery", "kills", (HEADRACE,)):
        yield Unmeasured(what, MOST_SECONDS, False, reason)
    else:
        own = column(kills_of(results, "recovery", HEADRACE), "new_step_seconds")
        yield Target(what, MOST_SECONDS, False, estimate(own))
    for key, which in (("new_step_seconds", "next new step"), ("next_step_seconds", "next step of any number")):
        what = f"{which}: torchrun's time over headrace's"
        if reason := missing(results, "recovery", "kills", (HEADRACE, TORCHRUN)):
            yield Unmeasured(what, TORCHRUN_TIMES, True, reason)
            continue
        own, peer = (column(kills_of(results, "recovery", arm), key) for arm in (HEADRACE, TORCHRUN))
        yield Target(what, TORCHRUN_TIMES, True, ratio(peer, own))


def _of_lost(results: Mapping[str, Any]) -> Iterator[Promise]:
    what = "steps run again after a kill, at most"
    if reason := missing(results, "lost", "kills", (HEADRACE,)):
        yield Unmeasured(what, MOST_LOST_STEPS, False, reason)
    else:
        most = max(column(kills_of(results, "lost", HEADRACE), "replayed_steps"))
        yield Target(what, MOST_LOST_STEPS, False, single(most))


def _of_snapshots(results: Mapping[str, Any]) -> Iterator[Promise]:
    what = "a snapshot at each step, share of the step"
    if reason := missing(results, "snapshots", "runs", (WITH, WITHOUT)):
        yield Unmeasured(what, MOST_SNAPSHOT_SHARE, False, reason)
    else:
        yield Target(what, MOST_SNAPSHOT_SHARE, False, snapshot_cost(results))


def _of_storm(results: Mapping[str, Any]) -> Iterator[Promise]:
    what = "one trace: goodput over its bound"
    most = bound_of(results)
    if reason := missing(results, "storm", "arms", (HEADRACE,)):
        yield Unmeasured(what, LEAST_OF_BOUND, True, reason)
    elif not most:
        yield Unmeasured(what, LEAST_OF_BOUND, True, "the bound needs what single kills cost Headrace")
    else:
        yield Target(what, LEAST_OF_BOUND, True, single(results["storm"]["arms"][HEADRACE]["goodput"] / most))
    for key, name in (("goodput", "goodput"), ("new_steps", "new steps in the same wall time")):
        yield _storm_ratio(results, key, f"one trace: {name}, headrace's over torchrun's")


def _storm_ratio(results: Mapping[str, Any], key: str, what: str) -> Promise:
    if reason := missing(results, "storm", "arms", (HEADRACE, TORCHRUN)):
        return Unmeasured(what, PEER_TIMES, True, reason)
    own, peer = (results["storm"]["arms"][arm][key] for arm in (HEADRACE, TORCHRUN))
    if not peer:
        return Unmeasured(what, PEER_TIMES, True, f"torchrun did no new step, headrace's figure is {own:g}")
    return Target(what, PEER_TIMES, True, single(own / peer))
