"""glibc's allocator as training on a CPU wants it: what a step frees, the next step takes again.

By default every large tensor is mapped anew and given back, so that each step has the kernel fill the same gigabytes
with zeros, page by page. Here freed memory stays with the process, and in huge pages where the kernel lends them. A
process then keeps the memory of its largest moment. Standard library alone: a process sets this before it starts
another.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
TUNABLES = {
    "glibc.malloc.mmap_max": "0",
    "glibc.malloc.trim_threshold": str(1 << 62),
    "glibc.malloc.hugetlb": "1",  # madvise
}


def keeping_memory(environment: Mapping[str, str]) -> dict[str, str]:
    """The variable for a process that is to keep what it frees; what `environment` tunes already stays as it is. Pure.

    https://sourceware.org/glibc/manual/2.36/html_node/Memory-Allocation-Tunables.html
    """
    given = dict(part.split("=", 1) for part in environment.get(VARIABLE, "").split(":") if "=" in part)
    return {VARIABLE: ":".join(f"{name}={value}" for name, value in {**TUNABLES, **given}.items())}


def restart_keeping_memory() -> None:
    """Start this process's command anew with the variable, once, where it trains on a CPU: glibc reads it at the start.

    A rank with a GPU has its tensors elsewhere, and should give back what it took on the host.
    """
    changed = keeping_memory(os.environ)
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    if sys.platform != "linux" or has_gpu or os.environ.get(VARIABLE) == changed[VARIABLE]:
        return
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **changed})
