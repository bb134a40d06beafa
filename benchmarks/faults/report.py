"""The fault benchmark as Markdown, and what was promised of it. Pure: from the results as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.data.report import table
from benchmarks.data.stats import Estimate, estimate, ratio
from benchmarks.data.targets import Target
from benchmarks.faults.arms import HEADRACE, TORCHRUN
from benchmarks.faults.goodput import bound
from benchmarks.faults.snapshots import WITH, WITHOUT

TORCHRUN_TIMES, MOST_SECONDS = 8.0, 1.0
MOST_LOST_STEPS, MOST_SNAPSHOT_SHARE = 1.0, 0.05
LEAST_OF_BOUND, PEER_TIMES = 0.9, 2.0
HANG_SECONDS = 5.0
"""Headrace's limit for a rank without a sign of life, where steps are below half a second (`cluster.hang_seconds`)."""

Kills = Sequence[Mapping[str, Any]]


def column(kills: Kills, key: str) -> list[float]:
    """One figure of all kills."""
    return [float(kill[key]) for kill in kills]


def bound_of(results: Mapping[str, Any]) -> float | None:
    """What Headrace's goodput can be at most, by what kills cost it in the same run; None without those."""
    kills = results.get("recovery", {}).get("kills", {}).get(HEADRACE) or results.get("lost", {}).get("kills", {}).get(
        HEADRACE
    )
    if not kills or "storm" not in results:
        return None
    storm = results["storm"]
    stalls = storm["hangs"] * HANG_SECONDS + storm["arms"][HEADRACE]["stall_seconds"]
    return bound(storm["seconds"], storm["restarts"], estimate(column(kills, "lost_seconds")).median, stalls)


def snapshot_share(results: Mapping[str, Any]) -> Estimate:
    """What snapshots add to a step, as a share of it."""
    runs = results["snapshots"]["runs"]
    found = ratio(column(runs[WITH], "step_seconds"), column(runs[WITHOUT], "step_seconds"))
    return Estimate(found.median - 1, found.low - 1, found.high - 1)


def targets(results: Mapping[str, Any]) -> list[Target]:
    """The promises on which the results have something to say."""
    return [*_of_recovery(results), *_of_lost(results), *_of_storm(results)]


def _of_recovery(results: Mapping[str, Any]) -> Iterator[Target]:
    kills = results.get("recovery", {}).get("kills", {})
    if not kills.get(HEADRACE):
        return
    own = column(kills[HEADRACE], "new_step_seconds")
    yield Target("SIGKILL to the next new step, s", MOST_SECONDS, False, estimate(own))
    if kills.get(TORCHRUN):
        for key, what in (("new_step_seconds", "next new step"), ("next_step_seconds", "next step of any number")):
            found = ratio(column(kills[TORCHRUN], key), column(kills[HEADRACE], key))
            yield Target(f"{what}: torchrun's time over headrace's", TORCHRUN_TIMES, True, found)


def _of_lost(results: Mapping[str, Any]) -> Iterator[Target]:
    if "lost" in results:
        most = max(column(results["lost"]["kills"][HEADRACE], "replayed_steps"))
        yield Target("steps run again after a kill, at most", MOST_LOST_STEPS, False, Estimate(most, most, most))
    if "snapshots" in results:
        yield Target("a snapshot at each step, share of the step", MOST_SNAPSHOT_SHARE, False, snapshot_share(results))


def _of_storm(results: Mapping[str, Any]) -> Iterator[Target]:
    if "storm" not in results:
        return
    own, peer = (results["storm"]["arms"][arm]["goodput"] for arm in (HEADRACE, TORCHRUN))
    most = bound_of(results)
    if most:
        yield Target("goodput over its bound", LEAST_OF_BOUND, True, Estimate(own / most, own / most, own / most))
    if peer:
        yield Target("goodput over torchrun's", PEER_TIMES, True, Estimate(own / peer, own / peer, own / peer))


def section(results: Mapping[str, Any]) -> str:
    """The whole section, without its markers."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["peers_versions"].items())
    lines = [
        "## Recovery: `make bench-recovery`",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB; {machine['system']}; Python "
        f"{machine['python']}; {versions}.",
        "",
        "The demo's model and batch on two ranks of one machine, one thread each, Headrace's model and kernels in all "
        "arms. A step is new once its number is higher than that of every step completed before the kill, by each "
        "arm's own step log. Moments of kills are drawn from the seed, within a step, the same for all arms. Headrace "
        "keeps a snapshot in memory at each step, and all arms save to disk equally often. torchrun's script passes "
        "over a checkpoint or shard that cannot be read. The peers' collectives time out after "
        f"{results['collective_seconds']:.0f} s (default: half an hour), and torchrun kills after two seconds what "
        "does not end (default: 30). Seed "
        f"{results['seed']}; `--seed` takes another.",
        "",
        "### Targets",
        "",
        table(("what", "target", "found", ""), [_target_row(target) for target in targets(results)]),
    ]
    for key, part in SECTIONS.items():
        if key in results:
            lines += ["", *part(results)]
    return "\n".join(lines)


def _target_row(target: Target) -> tuple[str, ...]:
    sign, met = ("≥" if target.at_least else "≤"), ("met" if target.is_met else "**not met**")
    text = target.found.text(3) if target.found.low != target.found.high else f"{target.found.median:.3f}"
    return target.what, f"{sign} {target.wanted:g}", text, met


def _recovery(results: Mapping[str, Any]) -> Iterator[str]:
    part = results["recovery"]
    yield "### SIGKILL of a rank to the next new step"
    yield ""
    yield f"A save every {part['save_every']} steps; medians with bootstrap intervals of 95%, and the most."
    yield ""
    columns = ("arm", "kills", "next step, s", "next new step, s", "most, s", "steps run again", "a step, ms")
    yield table(columns, [_recovery_row(arm, kills) for arm, kills in part["kills"].items() if kills])
    found = [kill["phases_seconds"] for kill in part["kills"].get(HEADRACE, []) if "phases_seconds" in kill]
    if found:
        forked, ready, first = (estimate(column(found, key)).median for key in ("forked", "ready", "first_step"))
        yield ""
        yield (
            f"Headrace's time by its journal: {forked:.2f} s until new ranks are forked, {ready:.2f} s until they have "
            f"met, built the engine and taken up the snapshot, {first:.2f} s for the first step."
        )


def _recovery_row(arm: str, kills: Kills) -> tuple[str, ...]:
    next_step, new_step = (column(kills, key) for key in ("next_step_seconds", "new_step_seconds"))
    again, step = column(kills, "replayed_steps"), estimate(column(kills, "step_seconds"))
    figures = (estimate(next_step).text(2), estimate(new_step).text(2), f"{max(new_step):.2f}")
    return arm, str(len(kills)), *figures, _span(again), f"{1000 * step.median:.0f}"


def _span(values: Sequence[float]) -> str:
    middle = estimate(values).median
    return f"{middle:.0f} ({min(values):.0f} to {max(values):.0f})"


def _lost(results: Mapping[str, Any]) -> Iterator[str]:
    part = results["lost"]
    yield "### Work lost per failure"
    yield ""
    yield f"One run of each with the same gaps between kills, and a save every {part['save_every']} steps."
    yield ""
    rows = [
        (arm, str(len(kills)), _span(column(kills, "replayed_steps")), f"{sum(column(kills, 'replayed_steps')):.0f}")
        for arm, kills in part["kills"].items()
    ]
    yield table(("arm", "kills", "steps run again: median (least to most)", "in all"), rows)


def _snapshots(results: Mapping[str, Any]) -> Iterator[str]:
    part, share = results["snapshots"], snapshot_share(results)
    yield "### What snapshots in a peer's memory cost"
    yield ""
    yield (
        f"Two nodes on this machine, whose cores do both nodes' work; {part['steps']} steps a run, by turns, from step "
        f"border to step border. Snapshots add {share.median:.1%} ({share.low:.1%} to {share.high:.1%}) to a step."
    )
    yield ""
    rows = [
        (
            arm,
            estimate(column(runs, "step_seconds")).text(3),
            f"{1000 * estimate(column(runs, 'keepers_cpu_seconds')).median:.0f}",
        )
        for arm, runs in part["runs"].items()
    ]
    yield table(("snapshots", "median step, s", "keepers' CPU ms per step"), rows)


def _storm(results: Mapping[str, Any]) -> Iterator[str]:
    part, most = results["storm"], bound_of(results)
    kinds = [kind for _, kind, _ in part["failures"]]
    told = ", ".join(f"{kinds.count(kind)} {kind.replace('_', ' ')}" for kind in dict.fromkeys(kinds))
    yield "### Goodput under a failure trace"
    yield ""
    yield (
        f"{part['seconds']:.0f} s, kills as a Poisson process of mean {part['mean_seconds']:.0f} s; in all {told}. A "
        f"save every {part['save_every']} steps. Goodput is new steps times the median undisturbed step, measured "
        "before the first failure, over the wall time."
        + (f" Headrace's bound by its own kills above: {most:.3f}." if most is not None else "")
    )
    yield ""
    rows = [
        (
            arm,
            f"{found['goodput']:.3f}",
            str(found["new_steps"]),
            f"{1000 * found['step_seconds']:.0f}",
            str(found["starts"]),
            "ended by itself" if found["ended"] else "",
        )
        for arm, found in part["arms"].items()
    ]
    yield table(("arm", "goodput", "new steps", "a step, ms", "starts", ""), rows)


SECTIONS = {"recovery": _recovery, "lost": _lost, "snapshots": _snapshots, "storm": _storm}
