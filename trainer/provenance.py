"""Where a run comes from: versions, machine and commit, as MLflow tags."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("torch", "deepspeed", "ray", "mlflow", "pyarrow", "webdataset", "tokenizers")
_GIT_DEADLINE_SECONDS = 5


def git_commit(folder: Path) -> str | None:
    """The commit checked out around a folder, with `-dirty` where tracked files differ; None outside a checkout."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_DEADLINE_SECONDS)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def provenance_tags(folder: Path) -> dict[str, str]:
    """Tags that say what ran where; `folder` is the run file's."""
    tags = {f"version.{name}": version(name) for name in _PACKAGES}
    tags["version.python"] = platform.python_version()
    tags["machine"] = f"{platform.node()} {platform.machine()} {os.cpu_count()} cores {platform.system()}"
    commit = git_commit(folder)
    if commit is not None:
        tags["git.commit"] = commit
    return tags
