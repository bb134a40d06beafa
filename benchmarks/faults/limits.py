"""Where the time of a recovery and of a trace goes, from the figures of the results alone. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.faults.arms import HEADRACE
from benchmarks.faults.targets import Kills, bound_of, column, hang_seconds, kills_of, lost_per_kill
from benchmarks.faults.trace import restarts_of
from benchmarks.harness.page import table
from benchmarks.harness.stats import estimate

PHASES = {
    "forked": "until new ranks are forked",
    "ready": "until they have met, built the engine and taken up the snapshot",
    "first_step": "the first step",
}


def what_limits(results: Mapping[str, Any]) -> list[str]:
    """The section; lines of what was measured alone."""
    lines = ["### What limits", ""]
    for part in (_phases(results), _again(results), _trace(results)):
        lines += [*part, ""]
    return lines[:-1]


def _phases(results: Mapping[str, Any]) -> Iterator[str]:
    kills = kills_of(results, "recovery", HEADRACE)
    found = [kill for kill in kills if "phases_seconds" in kill]
    if not found:
        yield "Headrace's recovery by phase: not measured."
        return
    yield (
        f"Headrace's recovery by phase, by its journal (kills: {len(found)}); a step without a fault took "
        f"{estimate(column(found, 'step_seconds')).text(2)} s:"
    )
    yield ""
    whole = estimate(column(found, "next_step_seconds")).median
    rows = []
    for key, what in PHASES.items():
        seconds = estimate([kill["phases_seconds"][key] for kill in found])
        rows.append((what, seconds.text(2), f"{seconds.median / whole:.0%}"))
    yield table(("phase", "s", "of the time to the next step"), rows)


def _again(results: Mapping[str, Any]) -> Iterator[str]:
    by_arm = {arm: kills for arm, kills in results.get("recovery", {}).get("kills", {}).items() if kills}
    if not by_arm:
        yield "Restart and steps run again: not measured."
        return
    yield (
        "The time to the next new step is that of a restart, which ends with the first step of any number, and that of "
        "the steps that are run again:"
    )
    yield ""
    yield table(
        ("arm", "restart, s", "run again, s", "of the time to the next new step"),
        [_again_row(arm, kills) for arm, kills in by_arm.items()],
    )


def _again_row(arm: str, kills: Kills) -> tuple[str, ...]:
    restart, new = column(kills, "next_step_seconds"), column(kills, "new_step_seconds")
    again = [whole - first for whole, first in zip(new, restart, strict=True)]
    share = sum(again) / sum(new)
    return arm, estimate(restart).text(2), estimate(again).text(2), f"{share:.0%}"


def _trace(results: Mapping[str, Any]) -> Iterator[str]:
    lost, most, storm = lost_per_kill(results), bound_of(results), results.get("storm", {})
    if lost is None or most is None:
        yield "Headrace's time under the trace: not measured."
        return
    own, seconds = storm["arms"][HEADRACE], storm["seconds"]
    restarts = restarts_of(own["done"])
    parts = {
        "new steps, each as long as an undisturbed one": own["goodput"] * seconds,
        f"{restarts} restarts, each as long as a single kill costs ({lost.median:.2f} s)": restarts * lost.median,
        "before hangs were told": hang_seconds(storm),
        "the loop stood still for checkpoints": own["stall_seconds"],
    }
    parts["the rest; below zero where steps were faster than before the trace, or failures fell into one restart"] = (
        seconds - sum(parts.values())
    )
    yield f"Headrace's {seconds:.0f} s under the one trace, whose bound is {most:.3f}:"
    yield ""
    rows = [(what, f"{value:.1f}", f"{value / seconds:.1%}") for what, value in parts.items()]
    yield table(("what", "s", "share"), rows)
