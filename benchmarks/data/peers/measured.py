"""A stretch of work measured, and the answer of an arm. Standard library and numpy alone, for every environment."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np


class Stretch:
    """Wall and CPU seconds of a `with` block: of all threads, and of child processes that ended within it."""

    def __enter__(self) -> Stretch:
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.wall_seconds = time.perf_counter() - self._wall
        self.cpu_seconds = _cpu_seconds() - self._cpu


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _peak_bytes() -> int:
    # Not ru_maxrss, which is at least what the process had that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def options() -> dict[str, Any]:
    """What the arm was asked to do: the JSON of its last argument."""
    return dict(json.loads(sys.argv[-1]))


def answer(stretch: Stretch, packages: Iterable[str], **more: Any) -> None:
    """Print the arm's measurement as the last line of its output."""
    measured = {
        "wall_seconds": stretch.wall_seconds,
        "cpu_seconds": stretch.cpu_seconds,
        "peak_mb": _peak_bytes() / 1e6,
        "cores": sorted(os.sched_getaffinity(0)),
        "versions": {name: version(name) for name in packages},
        **more,
    }
    print(json.dumps(measured), flush=True)  # noqa: T201


def documents_digest(streams: Iterable[np.ndarray], eot_id: int) -> str:
    """A name of a set of documents in whatever order: streams of tokens (one dimension), each document ended by eot_id.

    It is the sum of the documents' hashes, so that a document which is missing or there twice changes it.
    """
    total = documents = 0
    for stream in streams:
        ids = np.ascontiguousarray(stream, dtype="<u2")
        start = 0
        for end in np.flatnonzero(ids == eot_id).tolist():
            total += int.from_bytes(hashlib.blake2b(ids[start:end].tobytes(), digest_size=16).digest())
            documents += 1
            start = end + 1
        if start != len(ids):
            raise ValueError(f"a stream of tokens ends without the end mark: {len(ids) - start} tokens are left over")
    return f"{documents} documents {total % 2**128:032x}"


class SequenceDigest:
    """A name of a set of sequences in whatever order; each one counts as often as it comes."""

    def __init__(self, length: int) -> None:
        self._weights = np.random.default_rng(7).integers(0, 2**64, length, dtype=np.uint64) | np.uint64(1)
        self._hashes: list[np.ndarray] = []

    def add(self, batch: np.ndarray) -> None:
        """Rows of a batch, int64 [rows, length]."""
        self._hashes.append((batch.astype(np.uint64) * self._weights).sum(axis=1, dtype=np.uint64))

    def name(self) -> str:
        """Number of sequences, how many of them differ, and a hash of them all."""
        hashes = np.sort(np.concatenate(self._hashes))
        digest = hashlib.blake2b(hashes.tobytes(), digest_size=8).hexdigest()
        return f"{len(hashes)} sequences, {len(np.unique(hashes))} different, {digest}"
