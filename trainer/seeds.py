"""Random states as pure functions of (seed, step, rank), so that a resume needs none of them saved."""

from __future__ import annotations

import hashlib
import os

import torch


def derive_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for a place in the run, such as ("step", 17, "rank", 0)."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators for a step of a rank: dropout is then the same in every attempt."""
    torch.manual_seed(derive_seed(seed, "step", step, "rank", rank))


def make_deterministic(asked: str, device: torch.device) -> bool:
    """Switch on bitwise repeatable kernels where asked (`auto`: on a CPU); says whether they are on."""
    on = asked == "on" or (asked == "auto" and device.type == "cpu")
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        # Otherwise every torch.empty is filled, DeepSpeed's buckets at each step; nothing here reads what it has not
        # written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(on)
    return on
