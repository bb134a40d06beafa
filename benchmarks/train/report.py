"""The results as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.harness.page import table, target_table
from benchmarks.harness.stats import estimate, ratio
from benchmarks.train.arms import BARE, DDP
from benchmarks.train.limits import what_limits
from benchmarks.train.start import BARE as BARE_START
from benchmarks.train.targets import over_formula, peak_flops, targets, tokens_per_second, utilisation


def report(results: Mapping[str, Any]) -> str:
    """The whole section, without its markers."""
    sections = [_head(results), "### Targets\n\n" + target_table(targets(results))]
    for ranks, base in ((1, BARE), (2, DDP)):
        if f"ranks-{ranks}" in results:
            sections.append("\n".join(_training(results[f"ranks-{ranks}"], base)))
    if "start" in results:
        sections.append("\n".join(_starts(results["start"])))
    if "memory" in results:
        sections.append("\n".join(_memory(results["memory"])))
    if "overhead" in results:
        sections.append("\n".join(_overhead(results["overhead"])))
    if limits := what_limits(results):
        sections.append("\n".join(limits))
    return "\n\n".join([*sections, _commands(results)])


def failures(results: Mapping[str, Any]) -> dict[str, str]:
    """Arms that failed, or did another computation, with the reasons."""
    return {
        f"{part}: {arm}": reason
        for part, found in results.items()
        if isinstance(found, Mapping)
        for arm, reason in found.get("failed", {}).items()
    }


def _head(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    own, peers = (
        ", ".join(f"{name} {number}" for name, number in machine[key].items())
        for key in ("own_versions", "peers_versions")
    )
    return "\n".join(
        [
            "## Training: `make bench-train`",
            "",
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB; {machine['system']}; "
            f"Python {machine['python']}. Headrace with {own}; the peers with {peers}.",
            "",
            "One rank and all that belongs to it (driver, Ray, the sender to MLflow) are pinned to one core; of two "
            "ranks each has a core, and the rest shares the two. One thread a rank. Every arm trains the same model "
            "(Headrace's module, so the same kernels; nanoGPT has its own) from the same weights on the same rows at "
            "the same rates, and reads the loss at each step. Headrace's ranks tell glibc to keep freed memory, in "
            "huge pages; the peers have glibc's defaults, as their users have, and the bare loop and DDP are measured "
            "once more with these settings. Ray's workers, and so the ranks of `headrace train`, run at nice 15, all "
            "others at 0; nothing else ran. On one rank Headrace has one engine for all stages. The peers read the "
            "rows off a memory map; Headrace its shards, with hashes checked, its journal written, MLflow fed (its "
            "store was made before), and snapshots in memory where it is `headrace train`. Losses of all steps were "
            "compared with the bare loop's in short runs before anything was timed, and "
            f"in each timed run. {results['repetitions']} repetitions, the arms in turn (A B B A ...); medians with "
            "bootstrap intervals of 95%. CPU time is that of all processes of an arm. Every repetition is in "
            "`results/train.json`.",
        ]
    )


def _training(part: Mapping[str, Any], base: str) -> Iterator[str]:
    work, ranks = part["work"], part["ranks"]
    shape = work["model"]
    yield f"### Training, {ranks} rank{'s' if ranks > 1 else ''}\n"
    yield (
        f"GPT of {shape['n_layer']} layers, width {shape['n_embd']}, {shape['n_head']} heads, vocabulary "
        f"{shape['vocab_size']:,} ({work['parameters'] / 1e6:.1f} million parameters), fp32; {work['sequences']} "
        f"sequences of {work['seq_len']} tokens a step, {work['steps']} steps, of which the first "
        f"{work['warm_steps']} are not timed. Utilisation: 6 N + 12 L C T FLOPs a token (PaLM, appendix B), "
        f"{work['flops_per_token'] / 1e6:.1f} million, over the fastest matrix product of the same run, "
        f"{peak_flops(part) / 1e9:.1f} GFLOP/s a core.\n"
    )
    columns = ("arm", "tokens/s", f"over {base}", "tokens per CPU second", "utilisation", "losses apart by at most")
    yield table(columns, [_training_row(part, arm, base) for arm in part["samples"] if part["samples"][arm]])
    yield from _failed(part)


def _training_row(part: Mapping[str, Any], arm: str, base: str) -> tuple[str, ...]:
    wall, cpu = tokens_per_second(part, arm), tokens_per_second(part, arm, "cpu")
    is_compared = arm != base and bool(part["samples"].get(base))
    over = ratio(wall, tokens_per_second(part, base)).text(3) if is_compared else ""
    apart = f"{part['apart'][arm]:.1e}"
    return arm, estimate(wall).text(), over, estimate(cpu).text(), utilisation(part, arm).text(3), apart


def _failed(part: Mapping[str, Any]) -> Iterator[str]:
    for arm, reason in part["failed"].items():
        yield f"\n**{arm} failed and is not timed**: {reason.strip().splitlines()[-1][:300]}"


def _starts(part: Mapping[str, Any]) -> Iterator[str]:
    yield "### From the command to the end of the first step\n"
    yield (
        f"The same model, {part['work']['sequences']} sequences a step, the dataset prepared, files in the page cache, "
        "both cores. Cold: no Ray runs. Warm: a Ray runs, and the command joins it.\n"
    )
    samples = part["samples"]
    rows = []
    for arm, seconds in samples.items():
        is_compared = arm != BARE_START and bool(samples.get(BARE_START))
        rows.append(
            (arm, estimate(seconds).text(2), ratio(seconds, samples[BARE_START]).text(2) if is_compared else "")
        )
    yield table(("started by", "seconds", f"over {BARE_START}"), rows)
    yield from _failed(part)


def _memory(part: Mapping[str, Any]) -> Iterator[str]:
    yield "### Bytes per parameter and rank\n"
    yield (
        f"{part['parameters'] / 1e6:.1f} million parameters, fp32, AdamW, one short sequence a rank. Live tensors are "
        "counted, operation by operation, on the rank that holds most: between steps, and at the height of a step, "
        "activations included. ZeRO's formula has parameters, gradients and moments. Declared: the buckets that the "
        "configuration names, which DeepSpeed allocates beside them.\n"
    )
    columns = ("ranks", "stage", "arm", "at rest", "peak", "formula", "declared", "peak / (formula + declared)")
    rows = []
    for row in part["rows"]:
        each = [f"{row[key] / part['parameters']:.2f}" for key in ("rest", "peak", "formula", "buckets")]
        rows.append((str(row["ranks"]), str(row["stage"]), row["arm"], *each, f"{over_formula(row):.3f}"))
    yield table(columns, rows)
    yield from _failed(part)


def _overhead(part: Mapping[str, Any]) -> Iterator[str]:
    yield "### What a step costs whatever its batch is\n"
    yield (
        "CPU milliseconds of a rank's step with the same model and 16 tokens: nearly all of it is what the batch does "
        "not change, such as copies of gradients, sums over the ranks, norm, clip, update, and Python. Operations are "
        "those that take most by themselves, by torch.profiler, which slows them.\n"
    )
    arms = part["arms"]
    phases = list(next(iter(arms.values()))["phases"]) if arms else []
    rows = []
    for arm, found in arms.items():
        each = [f"{found['phases'][phase]:.1f}" for phase in phases]
        operations = ", ".join(f"{name} {ms:.1f}" for name, ms in found["operations"].items())
        rows.append((str(found["ranks"]), arm, f"{sum(found['phases'].values()):.1f}", *each, operations))
    yield table(("ranks", "arm", "all", *phases, "operations"), rows)
    yield from _failed(part)


def _commands(results: Mapping[str, Any]) -> str:
    lines = []
    for part in ("ranks-1", "ranks-2", "start"):
        lines += [f"{arm}: {command}" for arm, command in results.get(part, {}).get("commands", {}).items()]
    return "### Commands\n\n```\n" + "\n".join(lines) + "\n```"
