"""What the processes of all arms find in their environment."""

from __future__ import annotations

import os
from pathlib import Path

from trainer import allocator

ROOT = Path(__file__).resolve().parents[2]
_OUTER = ("RAY_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "TORCHELASTIC_", allocator.VARIABLE)
CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
"""All arms train on the CPU, whatever the machine has."""
_SETTINGS = {
    **CPU_ONLY,
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ACCELERATE_USE_CPU": "true",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def environment(*folders: Path) -> dict[str, str]:
    """Of all arms: one thread each, no network, no GPU, glibc's own allocator settings, nothing of an outer launcher;
    this tree to import, and what lies in these folders."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OUTER)}
    return {**kept, **_SETTINGS, "PYTHONPATH": ":".join(map(str, (ROOT, *folders)))}
