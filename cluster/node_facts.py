"""What one machine has, as it finds it by itself: for `headrace doctor`."""

from __future__ import annotations

import logging
import os
import platform
import resource
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

logger = logging.getLogger(__name__)

PACKAGES = ("headrace", "torch", "deepspeed", "ray", "mlflow", "pyarrow", "webdataset", "numpy")
DISK_PROBE_BYTES = 64 << 20
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class NodeFacts:
    """One machine. Bytes are free ones, rates per second; `problems` tells of what could not be found out.

    versions: of Python and of the packages that must be alike, "none" where one is absent; clock_offset_seconds: its
    clock minus the asker's, known to +- clock_uncertainty_seconds; folders_seen: by folder, whether the token that the
    asker wrote there was read.
    """

    node: str
    versions: Mapping[str, str]
    accelerators: tuple[str, ...] = ()
    cpus: int = 0
    memory_bytes: int = 0
    shm_bytes: int = 0
    disk_bytes: int = 0
    open_files: int = 0
    matmul_flops_per_second: float = 0.0
    disk_write_bytes_per_second: float = 0.0
    clock_offset_seconds: float = 0.0
    clock_uncertainty_seconds: float = 0.0
    folders_seen: Mapping[str, bool] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def find_facts(node: str, disk_folder: str) -> NodeFacts:
    """Look at this machine; takes some seconds. disk_folder: whose disk is looked at and written to."""
    import torch

    from trainer.free_memory import free_memory_bytes
    from trainer.peak import matmul_flops_per_second

    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    problems: list[str] = []
    return NodeFacts(
        node=node,
        versions=read_versions(),
        accelerators=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) if has_gpu else (),
        cpus=os.cpu_count() or 1,
        memory_bytes=free_memory_bytes(),
        shm_bytes=shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0,
        disk_bytes=_free_bytes(disk_folder, problems),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        matmul_flops_per_second=matmul_flops_per_second(device, "bf16" if has_gpu else "fp32"),
        disk_write_bytes_per_second=_write_rate(disk_folder, problems),
        problems=tuple(problems),
    )


def read_versions() -> dict[str, str]:
    """Of Python and of the packages that ranks on several machines must have alike."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _free_bytes(folder: str, problems: list[str]) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        problems.append(f"{folder}: {error.strerror}")
        return 0


def _write_rate(folder: str, problems: list[str]) -> float:
    """Bytes per second of one file, written and synced; 0 where that cannot be done."""
    path = Path(folder) / f".doctor-{socket.gethostname()}-{os.getpid()}"
    chunk = os.urandom(_CHUNK_BYTES)
    try:
        with path.open("wb") as file:
            began = time.perf_counter()
            for _ in range(DISK_PROBE_BYTES // _CHUNK_BYTES):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            seconds = time.perf_counter() - began
    except OSError as error:
        problems.append(f"{folder}: a file cannot be written there: {error.strerror}")
        return 0.0
    finally:
        path.unlink(missing_ok=True)
    return DISK_PROBE_BYTES / seconds
