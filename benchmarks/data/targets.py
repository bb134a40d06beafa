"""What is promised, and whether it was reached. Pure: from the results as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.data.arms_reading import HEADRACE, LITDATA, MEGATRON, MEMMAP, STREAMING, WEBDATASET
from benchmarks.data.arms_tokenise import BARE, DATATROVE, TIKTOKEN
from benchmarks.harness.stats import Estimate, estimate, ratio
from benchmarks.harness.targets import Target

OVER_PEERS_TOKENISING = {DATATROVE: 40.0, TIKTOKEN: 5.0, BARE: 0.6}
OVER_PEERS_READING = {WEBDATASET: 50.0, STREAMING: 30.0, LITDATA: 8.0, MEGATRON: 1.3, MEMMAP: 0.7}
TWO_WORKERS, START_SECONDS, MAX_OVER_MEAN = 1.9, 4.0, 1.001


def targets(results: Mapping[str, Any]) -> list[Target]:
    """The promises on which the results have something to say."""
    found: list[Target] = []
    if "tokenise" in results:
        found += _tokenising(results["tokenise"])
    if "prepare" in results:
        found += _prepare(results["prepare"])
    if "reading" in results:
        found += _over_peers("reading", results["reading"]["comparison"]["samples"], OVER_PEERS_READING)
    if "balance" in results:
        worst = max(span[1] for row in results["balance"] for span in _own_spans(row["max_over_mean"]))
        found.append(Target("balance: max over mean, worst case", MAX_OVER_MEAN, False, Estimate(worst, worst, worst)))
    return found


def cpu_ratio(samples: Mapping[str, Any], arm: str, other: str) -> Estimate:
    """How many times faster `arm` is than `other`, by CPU time."""
    seconds = {name: [sample["cpu_seconds"] for sample in samples[name]] for name in (arm, other)}
    return ratio(seconds[other], seconds[arm])


def _tokenising(groups: list[Mapping[str, Any]]) -> Iterator[Target]:
    for group in groups[:2]:  # the prose: small with all peers, large
        yield from _over_peers(group["corpus"]["name"], group["comparison"]["samples"], OVER_PEERS_TOKENISING)


def _over_peers(name: str, samples: Mapping[str, Any], wanted: Mapping[str, float]) -> Iterator[Target]:
    for peer, times in wanted.items():
        if peer in samples:
            yield Target(f"{name}: headrace over {peer}, by CPU time", times, True, cpu_ratio(samples, HEADRACE, peer))


def _prepare(prepare: Mapping[str, Any]) -> Iterator[Target]:
    one, two = ([sample["steady_mb_per_second"] for sample in prepare["samples"][number]] for number in ("1", "2"))
    yield Target("prepare: two workers over one, steady rate", TWO_WORKERS, True, ratio(two, one))
    for number, samples in prepare["samples"].items():
        start = estimate([sample["start_seconds"] for sample in samples])
        yield Target(f"prepare: start with {number} workers, s", START_SECONDS, False, start)


def _own_spans(spans: Mapping[str, list[float]]) -> Iterator[list[float]]:
    return (span for name, span in spans.items() if name.startswith("headrace"))
