"""The results as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.data.arms_reading import HEADRACE
from benchmarks.data.targets import cpu_ratio, targets
from benchmarks.harness.page import table, target_table
from benchmarks.harness.stats import estimate


def report(results: Mapping[str, Any]) -> str:
    """The whole section, without its markers."""
    sections = [_head(results), "### Targets\n\n" + target_table(targets(results))]
    for key, section in SECTIONS.items():
        if key in results:
            sections.append("\n".join(section(results[key])))
    return "\n\n".join([*sections, _commands(results)])


def _head(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    own, peers = (
        ", ".join(f"{name} {number}" for name, number in machine[key].items())
        for key in ("own_versions", "peers_versions")
    )
    return "\n".join(
        [
            "## Data: `make bench-data`",
            "",
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB; {machine['system']}; "
            f"Python {machine['python']}. Headrace with {own}; the peers with {peers}.",
            "",
            "Arms that measure one core are pinned to one core, with one thread and without a network. Each arm is a "
            "process of its own; imports and the loading of vocabularies are not counted. Each ran once uncounted, "
            "which filled the page cache and gave the digests: nothing was timed before all arms had put out the same. "
            f"Then {results['repetitions']} repetitions, the arms in turn (A B B A ...). Figures are medians with "
            "bootstrap intervals of 95%; MB are 10^6 bytes of text, without the JSON around it. CPU time is that of "
            "all threads and processes of an arm. Every repetition is in `results/data.json`.",
        ]
    )


def _tokenising(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "### Tokenising, one core\n"
    yield (
        "JSONL in, token files out: reading, encoding, writing and hashing included, but for the bare encoder, which "
        "has its texts in memory and leaves its ids there. Corpora are sentences of real text in a new random order, "
        "in documents of 1 to 8 KB, so that a size is no small text repeated; their vocabulary is limited, which suits "
        "every encoder that keeps a cache of words. Code is this Python's standard library."
    )
    for group in groups:
        corpus, samples = group["corpus"], group["comparison"]["samples"]
        yield f"\n{corpus['name']}: {corpus['text_bytes'] / 1e6:,.0f} MB in {corpus['documents']:,} documents\n"
        yield table(
            ("arm", "MB/s of CPU time", "MB/s of wall time", "headrace is faster by", "peak memory, MB"),
            [_tokenising_row(arm, samples, corpus["text_bytes"] / 1e6) for arm in samples],
        )


def _tokenising_row(arm: str, samples: Mapping[str, Any], megabytes: float) -> tuple[str, ...]:
    cpu, wall = (
        estimate([megabytes / sample[clock] for sample in samples[arm]]) for clock in ("cpu_seconds", "wall_seconds")
    )
    peak = max(sample["peak_mb"] for sample in samples[arm])
    return arm, cpu.text(1), wall.text(1), _times(samples, arm), f"{peak:,.0f}"


def _times(samples: Mapping[str, Any], arm: str) -> str:
    return "" if arm == HEADRACE else cpu_ratio(samples, HEADRACE, arm).text(2)


def _prepare(prepare: Mapping[str, Any]) -> Iterator[str]:
    yield "### `headrace prepare` on a Ray that runs\n"
    yield (
        f"{prepare['megabytes']:,.0f} MB of prose in units of {prepare['unit_bytes'] / 1e6:.0f} MB, all cores. The "
        "start is the whole command on 1 MB. The steady rate goes by the times at which shards are finished, from when "
        "each worker has finished one; the whole is the command's wall time.\n"
    )
    rows = []
    for workers, samples in prepare["samples"].items():
        keys = ("start_seconds", "steady_mb_per_second", "whole_mb_per_second", "wall_seconds")
        start, steady, whole, wall = (estimate([sample[key] for sample in samples]) for key in keys)
        rows.append((workers, start.text(2), steady.text(0), whole.text(0), wall.text(1)))
    yield table(("workers", "start, s", "steady, MB/s", "whole, MB/s", "whole, s"), rows)


def _reading(reading: Mapping[str, Any]) -> Iterator[str]:
    yield "### Reading, one core\n"
    yield (
        f"Shuffled batches int64 [16, 1025]: one epoch of {reading['tokens'] / 1e6:.0f} million tokens, in one process "
        "without workers, page cache warm. All arms deliver the same sequences, each once. Headrace (default window "
        "and streams, each block hashed) and Streaming (py1e), litdata (chunks, and blocks within a chunk) and "
        "webdataset (tars, and a buffer of 1,000) shuffle as they do; the map and Megatron's IndexedDataset are asked "
        "for a random permutation.\n"
    )
    samples = reading["comparison"]["samples"]
    yield table(
        ("arm", "million tokens/s of CPU time", "of wall time", "headrace is faster by", "peak memory, MB"),
        [_reading_row(arm, samples, reading["tokens"] / 1e6) for arm in samples],
    )


def _reading_row(arm: str, samples: Mapping[str, Any], millions: float) -> tuple[str, ...]:
    cpu, wall = (
        estimate([millions / sample[clock] for sample in samples[arm]]) for clock in ("cpu_seconds", "wall_seconds")
    )
    peak = max(sample["peak_mb"] for sample in samples[arm])
    return arm, cpu.text(1), wall.text(1), _times(samples, arm), f"{peak:,.0f}"


def _shuffle(shuffle: Mapping[str, Any]) -> Iterator[str]:
    yield "### Shuffle quality\n"
    yield (
        f"The first epoch of {shuffle['shards']:,} shards of {shuffle['sequences']:,} sequences, in batches of "
        f"{shuffle['batch']}; Headrace with {shuffle['streams']} streams. Neighbour distance: mean distance between "
        "the places in the corpus of neighbours in the order, as a share of the corpus. Correlations: of neighbours' "
        "places, and of place and position. Batch drift: how much more batches differ than batches drawn at random. "
        "Same shard: how much more often two sequences of a batch come from one shard than by chance.\n"
    )
    columns = [name.replace("_", " ") for name in next(iter(shuffle["rows"].values()))]
    yield table(
        ("order", *columns),
        [(name, *(f"{value:.4f}" for value in row.values())) for name, row in shuffle["rows"].items()],
    )


def _balance(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "### Balance\n"
    yield (
        f"Tokens of the fullest rank over the mean one, for {rows[0]['shards']} shards of log-normal size; the least "
        f"and the most of {rows[0]['seeds']} seeds.\n"
    )
    names = list(rows[0]["max_over_mean"])
    yield table(
        ("sigma", "ranks", *names),
        [
            (f"{row['sigma']}", f"{row['world']}", *(_span(row["max_over_mean"][name]) for name in names))
            for row in rows
        ],
    )


def _span(span: Sequence[float]) -> str:
    digits = 5 if span[1] < 1.001 else 3
    return f"{span[0]:.{digits}f} to {span[1]:.{digits}f}"


def _commands(results: Mapping[str, Any]) -> str:
    comparisons = [group["comparison"] for group in results.get("tokenise", [])[:1]]
    comparisons += [results["reading"]["comparison"]] if "reading" in results else []
    lines = [command for comparison in comparisons for command in comparison["commands"].values()]
    lines += [results["prepare"]["command"]] if "prepare" in results else []
    return "### Commands\n\n```\n" + "\n".join(lines) + "\n```"


SECTIONS: dict[str, Callable[[Any], Iterator[str]]] = {
    "tokenise": _tokenising,
    "prepare": _prepare,
    "reading": _reading,
    "shuffle": _shuffle,
    "balance": _balance,
}
