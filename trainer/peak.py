"""The measured peak of matrix products, against which utilisation is stated."""

from __future__ import annotations

import time

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SIZE = {"cpu": 1024, "cuda": 8192}


def matmul_flops_per_second(device: torch.device, precision: str, repeats: int = 3) -> float:
    """Best of a few square matrix products on this rank's threads, in floating-point operations per second.

    On a CPU the product is always fp32: its half-precision products are emulated and say nothing of the machine.
    """
    dtype = torch.float32 if device.type == "cpu" else DTYPES[precision]
    size = _SIZE[device.type]
    a = torch.ones(size, size, dtype=dtype, device=device)
    best_seconds = float("inf")
    for _ in range(repeats + 1):  # the first one makes threads and kernels
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best_seconds = min(best_seconds, time.perf_counter() - start)
    return 2 * size**3 / best_seconds
