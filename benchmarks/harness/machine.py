"""What the figures were measured on."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

OWN_PACKAGES = ("numpy", "pyarrow", "ray", "fastokens", "tokenizers", "msgspec")


def describe_machine(results: Mapping[str, Any], own_packages: Sequence[str] = OWN_PACKAGES) -> dict[str, Any]:
    """CPU, cores, memory, system, and the versions of all packages that took part."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu[1].strip() if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": memory / 2**30,
        "system": f"Linux {platform.release()}",
        "python": platform.python_version(),
        "own_versions": {name: version(name) for name in own_packages},
        "peers_versions": dict(sorted(_versions(results))),
    }


def peers_versions(python: str, packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages in the environment of that Python. Raises: CalledProcessError where one is missing."""
    code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {tuple(packages)!r}}}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def _versions(value: Any) -> Iterable[tuple[str, str]]:
    """All `versions` that arms have reported, wherever they stand in the results."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from inner.items() if key == "versions" else _versions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _versions(inner)
