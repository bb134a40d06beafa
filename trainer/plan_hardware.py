"""The hardware that a plan is for: an accelerator's published figures, or this machine's, measured."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.accelerators import Accelerator, find_accelerator, usable_gpu_bytes
from trainer.config import RunConfig
from trainer.errors import TrainError
from trainer.free_memory import free_memory_bytes
from trainer.peak import matmul_flops_per_second
from trainer.plan import Hardware, mean_seconds_between_failures
from trainer.plan_time import ASSUMED_DISK_BYTES_PER_SECOND, ASSUMED_UTILISATION
from trainer.precision import resolve_here, resolve_precision

_GIB = 1 << 30
_PROBE_BYTES = 64 << 20


@dataclass(frozen=True)
class Asked:
    """What the user says of the hardware; None where it is not said.

    accelerator: a name, else this machine; memory_gib: of a rank; utilisation: a share; disk: GB/s of all ranks;
    mtbf_hours: of one device.
    """

    accelerator: str | None = None
    memory_gib: float | None = None
    utilisation: float | None = None
    disk: float | None = None
    mtbf_hours: float | None = None


def precision_on(asked: Asked, precision: str) -> str:
    """What `train.precision` comes to there. Raises TrainError where the hardware has it not, or is not known."""
    if asked.accelerator is None:
        return resolve_here(precision, _here())
    return resolve_precision(precision, "cuda", find_accelerator(asked.accelerator).has_bf16)


def hardware_of(asked: Asked, config: RunConfig, precision: str, world_size: int) -> Hardware:
    """The hardware of a plan; without an accelerator's name this machine is measured, which takes a second.

    Raises:
        TrainError: there is no such accelerator, or it does not compute in the precision.
    """
    gpu = None if asked.accelerator is None else find_accelerator(asked.accelerator)
    device = _here() if gpu is None else torch.device("cuda")
    memory = _memory_here(device, world_size) if gpu is None else gpu.usable_bytes
    disk = None if asked.disk is None else asked.disk * 1e9
    if disk is None:
        disk = ASSUMED_DISK_BYTES_PER_SECOND if gpu is not None else write_bytes_per_second(Path(config.out_dir))
    return Hardware(
        name=_name(device) if gpu is None else gpu.name,
        device=device.type,
        memory_bytes=memory if asked.memory_gib is None else int(asked.memory_gib * _GIB),
        flops_per_second=_peak_here(device, precision, world_size) if gpu is None else _peak_of(gpu, precision),
        is_measured=gpu is None,
        utilisation=asked.utilisation or ASSUMED_UTILISATION,
        disk_bytes_per_second=disk,
        seconds_between_failures=mean_seconds_between_failures(asked.mtbf_hours, world_size),
    )


def _here() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine's CPU"


def _memory_here(device: torch.device, world_size: int) -> int:
    if device.type == "cuda":
        return usable_gpu_bytes(torch.cuda.mem_get_info(device)[1])
    return free_memory_bytes() // world_size


def _peak_of(gpu: Accelerator, precision: str) -> float:
    if precision not in gpu.flops_per_second:
        raise TrainError(f"train.precision: {gpu.name} does not compute in {precision}. Use fp16 or fp32.")
    return gpu.flops_per_second[precision]


def _peak_here(device: torch.device, precision: str, world_size: int) -> float:
    """Of one rank; those of a CPU share its cores."""
    if device.type == "cuda":
        return matmul_flops_per_second(device, precision)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world_size))
        return matmul_flops_per_second(device, precision)
    finally:
        torch.set_num_threads(threads)


def write_bytes_per_second(folder: Path) -> float:
    """How fast the disk of a folder (or of the nearest one above it that is there) takes a file, synced."""
    while not folder.is_dir():
        folder = folder.parent
    data = os.urandom(_PROBE_BYTES)
    with tempfile.TemporaryFile(dir=folder if os.access(folder, os.W_OK) else None) as file:
        began = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return _PROBE_BYTES / (time.perf_counter() - began)
