"""`headrace prepare` as a user runs it, on a Ray that runs, with one worker and with two."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.arms import OWN, Sample, require_equal
from benchmarks.data.corpus import Corpus
from benchmarks.harness.environment import ROOT
from benchmarks.harness.stats import turns

logger = logging.getLogger(__name__)

WORKERS = (1, 2)
START_SECONDS = 120.0
PREPARE_SECONDS = 600.0
UNIT_BYTES = 16 << 20


@dataclass(frozen=True)
class RayRuns:
    """Samples by the number of workers."""

    samples: dict[int, list[Sample]]
    command: str


def measure_prepare(large: Corpus, tiny: Corpus, tokenizer: Path, folder: Path, repetitions: int) -> RayRuns:
    """Prepare the tiny corpus and then the large one, on a Ray with one CPU and on one with two, in turn.

    The tiny corpus's time is the start. The steady rate of the large one is read off its shards' times of writing.
    Raises: RuntimeError if a command fails, or if the two numbers of workers do not make the same dataset.
    """
    samples: dict[int, list[Sample]] = {workers: [] for workers in WORKERS}
    made: dict[int, str] = {}
    # The first round is not counted: it fills the page cache.
    for round_number, number in enumerate(turns(len(WORKERS), repetitions + 1)):
        workers = WORKERS[number]
        with running_ray(workers) as address:
            start = _prepare(tiny, tokenizer, folder, address, workers)
            whole = _prepare(large, tokenizer, folder, address, workers)
        sample = _sample(start, whole, large, workers)
        logger.info(
            "prepare with %d workers: start %.2f s, whole %.2f s", workers, start["wall_seconds"], whole["wall_seconds"]
        )
        made[workers] = sample["fingerprint"]
        require_equal("prepare", {f"{count} workers": fingerprint for count, fingerprint in made.items()})
        if round_number >= len(WORKERS):
            samples[workers].append(sample)
    return RayRuns(samples, "headrace prepare prepare.yaml --address HOST:PORT")


def _sample(start: Sample, whole: Sample, large: Corpus, workers: int) -> Sample:
    text_per_byte = large.megabytes / sum(size for _, size in whole["units"])
    return {
        "start_seconds": start["wall_seconds"],
        "wall_seconds": whole["wall_seconds"],
        "steady_mb_per_second": steady_rate(whole["units"], workers) * text_per_byte,
        "whole_mb_per_second": large.megabytes / whole["wall_seconds"],
        "units": whole["units"],
        "fingerprint": whole["fingerprint"],
    }


def steady_rate(finished: Sequence[tuple[float, int]], workers: int) -> float:
    """Bytes per second once all workers are at it, from (time, bytes) of each unit's end.

    What the first unit of each worker took holds the start and is left out.
    """
    ordered = sorted(finished)
    if len(ordered) <= workers:
        raise ValueError(f"{len(ordered)} units on {workers} workers have no steady state: take a larger corpus")
    begin, end = ordered[workers - 1][0], ordered[-1][0]
    return sum(size for _, size in ordered[workers:]) / (end - begin)


@contextmanager
def running_ray(workers: int) -> Iterator[str]:
    """A Ray of its own with so many CPUs; gives its address."""
    command = [sys.executable, str(OWN / "ray_head.py"), json.dumps({"workers": workers})]
    head = subprocess.Popen(
        command,
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert head.stdin is not None and head.stdout is not None
    try:
        yield str(json.loads(head.stdout.readline())["address"])
    finally:
        head.stdin.close()
        head.wait(START_SECONDS)


def _prepare(corpus: Corpus, tokenizer: Path, folder: Path, address: str, workers: int) -> Sample:
    run = folder / "ray"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    file = run / "prepare.yaml"
    file.write_text(json.dumps(run_file(corpus, tokenizer, run / "data", workers)))
    command = [str(Path(sys.executable).parent / "headrace"), "prepare", str(file), "--address", address]
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=run, env=_environment(), capture_output=True, text=True, timeout=PREPARE_SECONDS, check=False
    )
    wall = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"headrace prepare: exit status {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
    finished = _units_finished(run / "data")
    fingerprint = json.loads((run / "data/dataset.json").read_text())["fingerprint"]
    shutil.rmtree(run)
    return {"wall_seconds": wall, "units": finished, "fingerprint": fingerprint}


def run_file(corpus: Corpus, tokenizer: Path, dataset: Path, workers: int) -> dict[str, object]:
    """The run file; the model and the length of a run do not matter to prepare, but a training gang must fit Ray."""
    return {
        "data": {
            "sources": [str(corpus.path)],
            "tokenizer": str(tokenizer),
            "dir": str(dataset),
            "unit_bytes": UNIT_BYTES,
        },
        "model": {"preset": "gpt2-tiny", "max_seq_len": 128},
        "train": {"max_steps": 1, "global_batch_size": 2, "lr": 1.0e-3},
        "cluster": {"workers": workers},
    }


def _units_finished(dataset: Path) -> list[tuple[float, int]]:
    """(time of its last write, bytes) of each training shard: there is one for each unit."""
    stats = [path.stat() for path in sorted(dataset.glob("train-*.tar"))]
    return [(stat.st_mtime_ns / 1e9, stat.st_size) for stat in stats]


def _environment() -> dict[str, str]:
    """The user's own, on a Ray that asks for no token even where the user has one."""
    return {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
