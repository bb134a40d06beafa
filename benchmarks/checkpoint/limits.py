"""What the machine allows: how long the same bytes take to copy in memory, to hash, and to write and sync."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from trainer.checkpoint.files import HASH, HASHES

CHUNK_BYTES = 4 << 20


def measure_limits(folder: Path, state_bytes: int, repetitions: int) -> dict[str, Any]:
    """Seconds of each repetition: a copy into memory that was touched before, the hash that Headrace's files have, and
    a file written and synced."""
    source, target = np.full(state_bytes, 1, np.uint8), np.full(state_bytes, 2, np.uint8)
    copies, hashes, writes = [], [], []
    for _ in range(repetitions):
        began = time.perf_counter()
        np.copyto(target, source)
        copies.append(time.perf_counter() - began)
        hashes.append(_hash(memoryview(source)))
        writes.append(_write(folder / "limit.bin", memoryview(source)))
    seconds = {"copy_seconds": copies, "hash_seconds": hashes, "write_seconds": writes}
    return {"state_bytes": state_bytes, "hash": HASH, **seconds}


def _hash(data: memoryview) -> float:
    began, digest = time.perf_counter(), HASHES[HASH]()
    for start in range(0, len(data), CHUNK_BYTES):
        digest.update(data[start : start + CHUNK_BYTES])
    digest.hexdigest()
    return time.perf_counter() - began


def _write(path: Path, data: memoryview) -> float:
    began = time.perf_counter()
    with path.open("wb") as file:
        for start in range(0, len(data), CHUNK_BYTES):
            file.write(data[start : start + CHUNK_BYTES])
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds
