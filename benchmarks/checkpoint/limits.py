"""What the machine allows: how long the same bytes take to copy in memory, and to write and sync."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

CHUNK_BYTES = 4 << 20


def measure_limits(folder: Path, state_bytes: int, repetitions: int) -> dict[str, Any]:
    """Seconds of each repetition: a copy into memory that was touched before, and a file written and synced."""
    source, target = np.ones(state_bytes, np.uint8), np.zeros(state_bytes, np.uint8)
    copies, writes = [], []
    for _ in range(repetitions):
        began = time.perf_counter()
        np.copyto(target, source)
        copies.append(time.perf_counter() - began)
        writes.append(_write(folder / "limit.bin", memoryview(source)))
    return {"state_bytes": state_bytes, "copy_seconds": copies, "write_seconds": writes}


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
