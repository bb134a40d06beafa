"""Whether this machine has what torch.compile needs. Standard library only, so that a driver can ask."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from trainer.errors import TrainError

# What Inductor calls for a CPU, and Triton for what launches its GPU kernels: a variable that names it, or the usual.
_COMPILERS = {"cpu": ("CXX", ("g++",)), "cuda": ("CC", ("gcc", "clang"))}


def check_compiler(device: str, environment: Mapping[str, str] = os.environ) -> None:
    """For `train.compile: true`, before anything starts.

    Args:
        device: "cpu" or "cuda".
        environment: of which PATH and CXX or CC are looked at.

    Raises:
        TrainError: no compiler is found, or Python's headers are missing, with which what it makes is loaded.
    """
    variable, usual = _COMPILERS[device]
    names = (environment[variable],) if environment.get(variable) else usual
    if not any(shutil.which(name, path=environment.get("PATH", "")) for name in names):
        raise TrainError(
            f"train.compile: torch.compile needs a compiler on PATH, since it makes code for this machine's {device}; "
            f"found no {' or '.join(names)}. Install one (apt-get install g++), name it in {variable}, or set "
            f"train.compile: false."
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise TrainError(
            f"train.compile: torch.compile needs Python's headers beside a compiler; found no {header}. Install them "
            f"(apt-get install python3-dev), or set train.compile: false."
        )
