"""Where the time of a training step goes, from the figures of the results alone. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.harness.page import table
from benchmarks.harness.stats import estimate
from benchmarks.train.arms import BARE, BARE_KEEPING, DDP, DDP_KEEPING, STAGES, headrace, timed_steps
from benchmarks.train.overhead import OWN_ALONE


def what_limits(results: Mapping[str, Any]) -> list[str]:
    """The section; empty where the cost of a step by itself was not measured."""
    arms = results.get("overhead", {}).get("arms", {})
    if not arms:
        return []
    lines = ["### What limits", ""]
    for part in (_allocator(arms), _shares(results, arms)):
        lines += part
    return lines


def _allocator(arms: Mapping[str, Any]) -> Iterator[str]:
    """What the allocator's settings do to the same loop."""
    for plain, keeping in ((BARE, BARE_KEEPING), (DDP, DDP_KEEPING)):
        if plain in arms and keeping in arms:
            yield (
                f"- {plain}: of {total(arms[plain]):.0f} ms that a step costs beside its batch, the allocator's "
                f"settings save {total(arms[plain]) - total(arms[keeping]):.0f} ms: tensors of gradients, updates and "
                "logits are not mapped and filled with zeros anew at each step."
            )


def _shares(results: Mapping[str, Any], arms: Mapping[str, Any]) -> Iterator[str]:
    """The cost beside the batch against the whole step, and its phases beside those of the plain loop."""
    rows = []
    for ranks, base in ((1, BARE_KEEPING), (2, DDP_KEEPING)):
        part = results.get(f"ranks-{ranks}")
        names = {headrace(2): OWN_ALONE} if ranks == 1 else {headrace(stage): headrace(stage) for stage in STAGES}
        for timed, by_itself in names.items():
            if part and part["samples"].get(timed) and by_itself in arms and base in arms:
                rows.append(_share(part, timed, arms[by_itself], arms[base]))
    if rows:
        yield ""
        yield (
            "What a step costs beside its batch (the table above) against the whole step, and the phases in which it "
            "is more than the plain loop's with the same allocator settings:"
        )
        yield ""
        columns = ("ranks", "arm", "step, ms", "beside the batch, ms", "share", "more than the plain loop, ms")
        yield table(columns, rows)


def _share(part: Mapping[str, Any], arm: str, own: Mapping[str, Any], plain: Mapping[str, Any]) -> tuple[str, ...]:
    step = estimate([1000 * wall / steps for steps, wall, _ in map(timed_steps, part["samples"][arm])]).median
    more = {phase: ms - plain["phases"][phase] for phase, ms in own["phases"].items()}
    told = ", ".join(f"{phase} {ms:.0f}" for phase, ms in more.items() if ms >= 1)
    return str(part["ranks"]), arm, f"{step:.0f}", f"{total(own):.0f}", f"{total(own) / step:.0%}", told


def total(found: Mapping[str, Any]) -> float:
    """Milliseconds of all phases."""
    return float(sum(found["phases"].values()))
