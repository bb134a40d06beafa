"""The comparison of saves as Markdown, and what was promised of it. Pure: from the results as they are stored."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.checkpoint.plan import DCP, DCP_CACHED, HEADRACE, TORCH_SAVE
from benchmarks.harness.failed import told
from benchmarks.harness.page import table, target_table
from benchmarks.harness.stats import Estimate, estimate, ratio
from benchmarks.harness.targets import Promise, Target, Unmeasured

TORCH_TIMES, DCP_TIMES, MOST_SHARE = 15.0, 4.0, 0.005
SAVE_EVERY_STEPS = 10
LEAST_SECONDS = 1e-3
"""No save is told to cost less."""


def costs(world: Mapping[str, Any], arm: str) -> list[float]:
    """Seconds of a save of an arm: of each run the mean, since saves of one run are not independent."""
    return [statistics.mean(sample["cost_seconds"]) for sample in world["samples"][arm]]


def measured(world: Mapping[str, Any]) -> list[str]:
    """The arms that have samples."""
    return [arm for arm, samples in world["samples"].items() if samples]


def best_dcp(world: Mapping[str, Any]) -> str | None:
    """The way of DCP that costs least."""
    tried = [arm for arm in DCP if arm in measured(world)]
    return min(tried, key=lambda arm: estimate(costs(world, arm)).median, default=None)


def share_of_steps(world: Mapping[str, Any], arm: str) -> Estimate:
    """What a save every ten steps adds to their time."""
    steps = [SAVE_EVERY_STEPS * sample["step_seconds"] for sample in world["samples"][arm]]
    return ratio(costs(world, arm), steps)


def targets(results: Mapping[str, Any]) -> list[Promise]:
    """The promises, of each number of ranks."""
    return [promise for ranks, world in results["worlds"].items() for promise in _of_world(ranks, world)]


def _of_world(ranks: str, world: Mapping[str, Any]) -> Iterator[Promise]:
    for arm, times in ((TORCH_SAVE, TORCH_TIMES), (best_dcp(world) or DCP_CACHED, DCP_TIMES)):
        what = f"{_ranks(ranks)}: a save of {arm} over one of headrace"
        if reason := _missing(world, (HEADRACE, arm)):
            yield Unmeasured(what, times, True, reason)
        else:
            yield Target(what, times, True, _times(costs(world, arm), costs(world, HEADRACE)))
    what = f"{_ranks(ranks)}: a save every ten steps, share of their time"
    if reason := _missing(world, (HEADRACE,)):
        yield Unmeasured(what, MOST_SHARE, False, reason)
    else:
        yield Target(what, MOST_SHARE, False, share_of_steps(world, HEADRACE))


def _missing(world: Mapping[str, Any], arms: Sequence[str]) -> str | None:
    """Why the first of the arms that has no samples has none; None where all have some."""
    for arm in arms:
        if arm not in measured(world):
            reasons = world["failed"].get(arm) or world["refused"].get(arm) or ["it was not run"]
            return f"{arm}: {reasons[0]}"
    return None


def _ranks(number: str) -> str:
    return "1 rank" if number == "1" else f"{number} ranks"


def _times(other: Sequence[float], own: Sequence[float]) -> Estimate:
    """How many times dearer; a cost that is lost in the noise counts as the least that can be told, its interval."""
    cost = estimate(own)
    if cost.low > 0:
        return ratio(other, own)
    least = estimate(other).median / max(cost.high, LEAST_SECONDS)
    return Estimate(least, least, least)


def section(results: Mapping[str, Any]) -> str:
    """The whole section, without its markers."""
    lines = [*_head(results), "", "### Targets", "", target_table(targets(results))]
    for ranks, world in results["worlds"].items():
        lines += ["", f"### {_ranks(ranks)}", "", _world_table(world), *told(world), *_refused(world)]
    lines += ["", *what_limits(results)]
    return "\n".join([*lines, "", "One arm alone: `python -m benchmarks.checkpoint --arm 'NAME' --world N`."])


def _head(results: Mapping[str, Any]) -> list[str]:
    machine, shape = results["machine"], results["shape"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["peers_versions"].items())
    return [
        "## Checkpoints: `make bench-checkpoint`",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB; {machine['system']}; Python "
        f"{machine['python']}; {versions}.",
        "",
        f"{results['limits']['state_bytes'] / 1e6:.0f} MB of state (fp32 weights and AdamW's two moments) of a GPT of "
        f"{shape['n_layer']} layers and width {shape['n_embd']}, 2 x {shape['max_seq_len']} tokens a step; all arms "
        f"are pinned to the same {machine['cores']} cores, all of which compute. {results['block']} steps with a save "
        "alternate with as many without. A save's cost is the time of its block less the mean of the quiet blocks "
        "around it: copies, hashes and writes beside the steps count as much as a loop that stands still. The first "
        "save of a run is told by itself; no arm waits for it. Before anything was timed, the weights of each save "
        "were read back and equalled those of its step, and its files were as large as weights and moments are. "
        f"{results['repetitions']} runs of each arm, in turn (A B B A ...); of each run the mean of its saves, of "
        "runs the median with a bootstrap interval of 95%.",
        "",
        "Headrace's ranks keep what they free (`GLIBC_TUNABLES`, as `python -m trainer` sets it on a CPU), in huge "
        "pages where the kernel has them; the peers have glibc's defaults. All run at the same priority, on a machine "
        "where nothing else runs.",
    ]


def _world_table(world: Mapping[str, Any]) -> str:
    columns = (
        "arm",
        "a save costs, ms",
        "over headrace's",
        "of the time at a save every ten steps",
        "until durable, s",
    )
    return table((*columns, "first save, ms", "step, ms", "MB", "late"), [_row(world, arm) for arm in measured(world)])


def _row(world: Mapping[str, Any], arm: str) -> tuple[str, ...]:
    samples, cost = world["samples"][arm], costs(world, arm)
    durable = [statistics.mean(sample["durable_seconds"]) for sample in samples if sample["durable_seconds"]]
    is_compared = arm != HEADRACE and HEADRACE in measured(world)
    step = estimate([sample["step_seconds"] for sample in samples])
    first = estimate([sample["first_cost_seconds"] for sample in samples])
    return (
        arm,
        _milli(estimate(cost)),
        _times(cost, costs(world, HEADRACE)).text(1) if is_compared else "",
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
    listed = [f"- {arm} does not work here: `{reasons[0]}`" for arm, reasons in world["refused"].items()]
    return ["", *listed] if listed else []


def what_limits(results: Mapping[str, Any]) -> list[str]:
    """Headrace's saves by phase beside what the machine takes for the same bytes by themselves."""
    limits = results["limits"]
    copy, hashed, write = (estimate(limits[f"{key}_seconds"]) for key in ("copy", "hash", "write"))
    lines = [
        "### What limits",
        "",
        f"The machine's limits in the same run, for {limits['state_bytes'] / 1e6:.0f} MB on one core with nothing "
        f"beside it: a copy in memory {_milli(copy)} ms, hashed ({limits['hash']}) {_milli(hashed)} ms, written and "
        f"synced {_milli(write)} ms. Headrace's phases of a save go on beside steps that take all cores; each rank has "
        "its share of the bytes. Milliseconds on rank 0, one phase after the other from the end of the step on:",
        "",
    ]
    columns = ("ranks", "copied", "over a copy", "hashed, written and synced", "over hash and write", "until it counts")
    rows = [_phases_row(ranks, world, limits) for ranks, world in results["worlds"].items() if _phases(world)]
    return [*lines, table((*columns, "the loop stood still", "a save costs"), rows)] if rows else lines[:3]


def _phases(world: Mapping[str, Any]) -> dict[str, list[float]]:
    """Seconds of each phase of Headrace's saves, a mean for each run."""
    runs = [sample["phases"] for sample in world["samples"].get(HEADRACE, ()) if sample["phases"]]
    names = runs[0][0] if runs else ()
    return {name: [statistics.mean(save[name] for save in saves) for saves in runs] for name in names}


def _phases_row(ranks: str, world: Mapping[str, Any], limits: Mapping[str, Any]) -> tuple[str, ...]:
    found = _phases(world)
    hash_and_write = [one + two for one, two in zip(limits["hash_seconds"], limits["write_seconds"], strict=True)]
    return (
        ranks,
        _milli(estimate(found["copied"])),
        ratio(found["copied"], limits["copy_seconds"]).text(1),
        _milli(estimate(found["written"])),
        ratio(found["written"], hash_and_write).text(1),
        _milli(estimate(found["counted"])),
        _milli(estimate(found["stood_still"])),
        _milli(estimate(costs(world, HEADRACE))),
    )
