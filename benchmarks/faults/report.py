"""The fault benchmark as Markdown, and what was promised of it. Pure: from the results as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.faults.limits import what_limits
from benchmarks.faults.snapshots import WITH
from benchmarks.faults.targets import Kills, bound_of, column, snapshot_cost, targets
from benchmarks.harness.failed import told
from benchmarks.harness.page import table, target_table
from benchmarks.harness.stats import estimate


def section(results: Mapping[str, Any]) -> str:
    """The whole section, without its markers."""
    lines = [*_head(results), "", "### Targets", "", target_table(targets(results))]
    for key, part in SECTIONS.items():
        if key in results:
            lines += ["", *part(results), *told(results[key])]
    return "\n".join([*lines, "", *what_limits(results)])


def _head(results: Mapping[str, Any]) -> list[str]:
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["peers_versions"].items())
    return [
        "## Recovery: `make bench-recovery`",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB; {machine['system']}; Python "
        f"{machine['python']}; {versions}.",
        "",
        "The demo's model and batch on two ranks of one machine, one thread each, Headrace's model and kernels in all "
        f"arms, which are pinned to the same {machine['cores']} cores. A step is new once its number is higher than "
        "that of every step completed before the kill, by each arm's own step log. Moments of kills are drawn from the "
        "seed, within a step, the same for all arms. Headrace keeps a snapshot in memory at each step, and all arms "
        "save to disk equally often. torchrun's script passes over a checkpoint or shard that cannot be read, and "
        "stages its saves in memory that is used again; its ranks meet under keys of each attempt, since by default "
        "they can read addresses of the one before, as Lightning's may. The peers' collectives time out after "
        f"{results['collective_seconds']:.0f} s (default: half an hour), and torchrun kills after two seconds what "
        f"does not end (default: 30). Seed {results['seed']}; `--seed` takes another.",
        "",
        "Headrace's ranks keep what they free (`GLIBC_TUNABLES`, which it sets on a CPU), in huge pages where the "
        "kernel has them; the peers have glibc's defaults. Ray runs its workers, Headrace's and Ray Train's, at nice "
        "15; the other peers are at 0, on a machine where nothing else runs.",
    ]


def _recovery(results: Mapping[str, Any]) -> Iterator[str]:
    part = results["recovery"]
    yield "### SIGKILL of a rank to the next new step"
    yield ""
    yield f"A save every {part['save_every']} steps; medians with bootstrap intervals of 95%, and the most."
    yield ""
    columns = ("arm", "kills", "next step, s", "next new step, s", "most, s", "steps run again", "a step, ms")
    yield table(columns, [_recovery_row(arm, kills) for arm, kills in part["kills"].items() if kills])


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
        if kills
    ]
    yield table(("arm", "kills", "steps run again: median (least to most)", "in all"), rows)


def _snapshots(results: Mapping[str, Any]) -> Iterator[str]:
    part = results["snapshots"]
    yield "### What snapshots in a peer's memory cost"
    yield ""
    yield (
        f"Two nodes on this machine, whose cores do both nodes' work; {part['steps']} steps a run, by turns, mean step "
        "from step border to step border. A rank takes no snapshot while the one before is on its way to the other "
        "node." + _snapshots_found(results)
    )
    yield ""
    rows = [
        (
            arm,
            estimate(column(runs, "step_seconds")).text(3),
            f"{estimate(column(runs, 'share_of_steps')).median:.0%}",
            f"{1000 * estimate(column(runs, 'keepers_cpu_seconds')).median:.0f}",
        )
        for arm, runs in part["runs"].items()
        if runs
    ]
    yield table(("snapshots", "mean step, s", "steps with a snapshot", "keepers' CPU ms per step"), rows)


def _snapshots_found(results: Mapping[str, Any]) -> str:
    runs = results["snapshots"]["runs"]
    if not all(runs.values()):
        return ""
    cost, share = snapshot_cost(results), estimate(column(runs[WITH], "share_of_steps"))
    return (
        f" Snapshots of {share.median:.0%} of the steps add {cost.median:.1%} ({cost.low:.1%} to {cost.high:.1%}) to "
        "a step."
    )


def _storm(results: Mapping[str, Any]) -> Iterator[str]:
    part, most = results["storm"], bound_of(results)
    kinds = [kind for _, kind, _ in part["failures"]]
    listed = ", ".join(f"{kinds.count(kind)} {kind.replace('_', ' ')}" for kind in dict.fromkeys(kinds))
    yield "### Goodput under a failure trace"
    yield ""
    yield (
        f"One trace of {part['seconds']:.0f} s, the same for both; kills as a Poisson process of mean "
        f"{part['mean_seconds']:.0f} s; in all {listed}. A save every {part['save_every']} steps. Goodput is new steps "
        "times the median undisturbed step, measured before the first failure, over the wall time."
        + (f" Headrace's bound by its own kills above: {most:.3f}." if most is not None else "")
    )
    yield ""
    rows = [
        (
            arm,
            f"{found['goodput']:.3f}",
            str(found["new_steps"]),
            f"{1000 * found['step_seconds']:.0f}",
            f"{len(found['done'])} of {len(kinds)}",
            str(found["starts"]),
            "ended by itself" if found["ended"] else "",
        )
        for arm, found in part["arms"].items()
    ]
    yield table(("arm", "goodput", "new steps", "a step, ms", "failures done", "starts", ""), rows)


SECTIONS = {"recovery": _recovery, "lost": _lost, "snapshots": _snapshots, "storm": _storm}
