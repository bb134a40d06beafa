"""The comparison of saves as Markdown, and what was promised of it. Pure: from the results as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.checkpoint.plan import DCP_PROCESS, DCP_THREAD, HEADRACE, TORCH_SAVE
from benchmarks.data.report import table
from benchmarks.data.stats import Estimate, estimate, ratio
from benchmarks.data.targets import Target

TORCH_TIMES, DCP_TIMES, MOST_SHARE = 15.0, 4.0, 0.005
SAVE_EVERY_STEPS = 10
LEAST_SECONDS = 1e-3
"""No save is told to cost less."""


def costs(world: Mapping[str, Any], arm: str) -> list[float]:
    """Seconds of every counted save of an arm."""
    return [cost for sample in world["samples"][arm] for cost in sample["cost_seconds"]]


def best_dcp(world: Mapping[str, Any]) -> str | None:
    """The way of DCP that costs least."""
    tried = [arm for arm in (DCP_THREAD, DCP_PROCESS) if arm in world["samples"]]
    return min(tried, key=lambda arm: estimate(costs(world, arm)).median, default=None)


def share_of_steps(world: Mapping[str, Any], arm: str) -> Estimate:
    """What a save every ten steps adds to their time."""
    steps = [SAVE_EVERY_STEPS * sample["step_seconds"] for sample in world["samples"][arm]]
    return ratio(costs(world, arm), steps)


def targets(results: Mapping[str, Any]) -> list[Target]:
    """The promises, of each number of ranks."""
    return [target for ranks, world in results["worlds"].items() for target in _of_world(ranks, world)]


def _of_world(ranks: str, world: Mapping[str, Any]) -> Iterator[Target]:
    if HEADRACE not in world["samples"]:
        return
    own = costs(world, HEADRACE)
    for arm, times in ((TORCH_SAVE, TORCH_TIMES), (best_dcp(world), DCP_TIMES)):
        if arm in world["samples"]:
            what = f"{ranks} ranks: a save of {arm} over one of headrace"
            yield Target(what, times, True, _times(costs(world, arm), own))
    yield Target(
        f"{ranks} ranks: a save every ten steps, share of their time",
        MOST_SHARE,
        False,
        share_of_steps(world, HEADRACE),
    )


def _times(other: Sequence[float], own: Sequence[float]) -> Estimate:
    """How many times dearer; a cost that is lost in the noise counts as the least that can be told, its interval."""
    cost = estimate(own)
    if cost.low > 0:
        return ratio(other, own)
    least = estimate(other).median / max(cost.high, LEAST_SECONDS)
    return Estimate(least, least, least)


def section(results: Mapping[str, Any]) -> str:
    """The whole section, without its markers."""
    machine, limits = results["machine"], results["limits"]
    shape = results["shape"]
    copy, write = (estimate(limits[key]) for key in ("copy_seconds", "write_seconds"))
    versions = ", ".join(f"{name} {number}" for name, number in machine["peers_versions"].items())
    lines = [
        "## Checkpoints: `make bench-checkpoint`",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB; {machine['system']}; Python "
        f"{machine['python']}; {versions}.",
        "",
        f"{limits['state_bytes'] / 1e6:.0f} MB of state (fp32 weights and AdamW's two moments) of a GPT of "
        f"{shape['n_layer']} layers and width {shape['n_embd']}, 2 x {shape['max_seq_len']} tokens a step; all cores "
        f"compute. {results['block']} steps with a save alternate with as many without. A save's cost is the "
        "time of its block less the mean of the quiet blocks around it: copies, hashes and writes beside the steps "
        "count as much as a loop that stands still. The first save of a run is told by itself. What was saved was read "
        f"back and equalled the weights of its step before anything was timed. {results['repetitions']} runs of each "
        "arm, in turn (A B B A ...); medians with bootstrap intervals of 95%.",
        "",
        f"The machine's limits in the same run, for as many bytes: a copy in memory {copy.text(3)} s, written and "
        f"synced {write.text(2)} s.",
        "",
        "### Targets",
        "",
        table(("what", "target", "found", ""), [_target_row(target) for target in targets(results)]),
    ]
    for ranks, world in results["worlds"].items():
        lines += ["", f"### {ranks} ranks", "", _world_table(world), *_refused(world)]
    return "\n".join([*lines, "", "One arm alone: `python -m benchmarks.checkpoint --arm 'NAME' --world N`."])


def _target_row(target: Target) -> tuple[str, ...]:
    sign, met = ("≥" if target.at_least else "≤"), ("met" if target.is_met else "**not met**")
    return target.what, f"{sign} {target.wanted:g}", target.found.text(1 if target.at_least else 4), met


def _world_table(world: Mapping[str, Any]) -> str:
    columns = (
        "arm",
        "a save costs, ms",
        "over headrace's",
        "of the time at a save every ten steps",
        "until durable, s",
    )
    return table((*columns, "first save, ms", "step, ms", "MB", "late"), [_row(world, arm) for arm in world["samples"]])


def _row(world: Mapping[str, Any], arm: str) -> tuple[str, ...]:
    samples, cost = world["samples"][arm], costs(world, arm)
    durable = [seconds for sample in samples for seconds in sample["durable_seconds"]]
    own = costs(world, HEADRACE) if HEADRACE in world["samples"] else []
    step = estimate([sample["step_seconds"] for sample in samples])
    first = estimate([sample["first_cost_seconds"] for sample in samples])
    return (
        arm,
        _milli(estimate(cost)),
        _times(cost, own).text(1) if own and arm != HEADRACE else "",
        f"{share_of_steps(world, arm).median:.2%}",
        estimate(durable).text(2) if durable else "never by itself: it does not sync",
        _milli(first),
        _milli(step),
        f"{samples[-1]['bytes'] / 1e6:.0f}",
        str(sum(sample["late_saves"] for sample in samples)),
    )


def _milli(found: Estimate) -> str:
    return Estimate(1000 * found.median, 1000 * found.low, 1000 * found.high).text()


def _refused(world: Mapping[str, Any]) -> list[str]:
    listed = [f"- {arm} does not work here: `{reason}`" for arm, reason in world["refused"].items()]
    return ["", *listed] if listed else []
