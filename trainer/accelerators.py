"""Published figures of accelerators: memory, and dense matrix products per second. No measurement of ours.

Peaks are without sparsity, with sums in fp32 where the sheet tells the two apart; fp32 is that of the plain units, for
torch's default does not use TF32. Gigabytes are 10^9 bytes, as sold.

Sources: NVIDIA's data sheets of V100 (2020), A100 (2022), H100 (2023), H200 (2024), HGX B200 (2025), L4 and L40S
(2023); white papers "GA102 GPU Architecture" (2021) for the RTX 3090 and "Ada GPU Architecture" (2022) for the
RTX 4090.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.errors import TrainError

RESERVED_BYTES = 2 << 30
RESERVED_SHARE = 0.05
"""Left alone on a GPU: the driver's context, NCCL's buffers and kernels' workspaces; and gaps between blocks."""


@dataclass(frozen=True)
class Accelerator:
    """One device. flops_per_second: by precision; one that is missing the device cannot compute in."""

    name: str
    memory_bytes: int
    flops_per_second: Mapping[str, float]

    @property
    def usable_bytes(self) -> int:
        """What tensors may take."""
        return usable_gpu_bytes(self.memory_bytes)

    @property
    def has_bf16(self) -> bool:
        """Whether it multiplies matrices in bf16."""
        return "bf16" in self.flops_per_second


def usable_gpu_bytes(memory_bytes: int) -> int:
    """What tensors may take of a GPU's memory. Pure."""
    return int(memory_bytes * (1 - RESERVED_SHARE)) - RESERVED_BYTES


def _gpu(name: str, gigabytes: int, half_teraflops: float, fp32_teraflops: float, has_bf16: bool = True) -> Accelerator:
    halves = ("fp16", "bf16") if has_bf16 else ("fp16",)
    peaks = {"fp32": fp32_teraflops * 1e12, **dict.fromkeys(halves, half_teraflops * 1e12)}
    return Accelerator(name, gigabytes * 10**9, peaks)


ACCELERATORS = {
    gpu.name: gpu
    for gpu in (
        _gpu("B200", 180, 2250.0, 75.0),
        _gpu("H200", 141, 989.4, 66.9),
        _gpu("H100", 80, 989.4, 66.9),
        _gpu("A100", 80, 312.0, 19.5),
        _gpu("A100-40GB", 40, 312.0, 19.5),
        _gpu("L40S", 48, 362.0, 91.6),
        _gpu("L4", 24, 121.0, 30.3),
        _gpu("RTX-4090", 24, 165.2, 82.6),
        _gpu("RTX-3090", 24, 71.0, 35.6),
        _gpu("V100", 32, 125.0, 15.7, has_bf16=False),
    )
}


def find_accelerator(name: str) -> Accelerator:
    """The accelerator of a name, in upper or lower case.

    Raises:
        TrainError: there is none; the message lists those that there are.
    """
    known = {key.lower(): accelerator for key, accelerator in ACCELERATORS.items()}
    found = known.get(name.lower()) or known.get(f"rtx-{name.lower()}")
    if found is None:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f" Did you mean {known[near[0]].name}?" if near else ""
        raise TrainError(f"--accelerator: must be one of {', '.join(ACCELERATORS)}, found {name!r}.{hint}")
    return found
