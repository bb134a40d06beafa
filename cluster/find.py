"""Finding the run that a command is about."""

from __future__ import annotations

from pathlib import Path

from monitoring.errors import MonitoringError
from monitoring.runs import RunFolder, find_run

RUNS_DIRS = (Path("runs"), Path("recipes/runs"))


def find_run_folder(text: str, runs_dir: Path | None) -> RunFolder:
    """The run with that name, folder or id, looked up in `runs_dir` or in the usual folders.

    Raises:
        MonitoringError: there is none, or there are several.
    """
    folders = (runs_dir,) if runs_dir is not None else tuple(d for d in RUNS_DIRS if d.is_dir()) or RUNS_DIRS[:1]
    refusal: MonitoringError | None = None
    for folder in folders:
        try:
            return find_run(text, folder)
        except MonitoringError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal
