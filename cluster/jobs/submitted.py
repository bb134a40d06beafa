"""A submitted run's files in its own folder, OUT_DIR/submitted: where all nodes see them, and a resume finds them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.find import RUNS_DIRS, find_run_folder
from cluster.jobs.ticket import Ticket, ticket_from_dict
from monitoring.errors import MonitoringError

FOLDER = "submitted"
RUN_FILE, TICKET_FILE = "headrace.run.yaml", "headrace.job.json"
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
"""Ray's own: the job server where none is named."""


@dataclass(frozen=True)
class Submitted:
    """The newest submission of a run, and the job server's address as its submitter gave it."""

    ticket: Ticket
    address: str


def submitted_run_file(out_dir: Path) -> Path:
    """The run file of the newest submission."""
    return out_dir / FOLDER / RUN_FILE


def read_submitted(out_dir: Path) -> Submitted | None:
    """The newest submission; None where the run was never submitted, or its folder is not seen from here."""
    try:
        values = json.loads((out_dir / FOLDER / TICKET_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Submitted(ticket_from_dict(values["ticket"]), values["address"])


def keep_submitted(out_dir: Path, files: Path | None, submitted: Submitted) -> None:
    """Put a submission's files into the run's folder, its ticket last. files: None keeps those that are there."""
    folder = out_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if files is not None:
        shutil.copytree(files, folder, dirs_exist_ok=True)
    draft = folder / f".{TICKET_FILE}.{os.getpid()}"
    draft.write_text(json.dumps(asdict(submitted)))
    draft.replace(folder / TICKET_FILE)


def submitted_here(text: str, runs_dir: Path | None) -> Submitted | None:
    """The newest submission of the run that `text` means, where its folder is seen from here."""
    dirs = (runs_dir,) if runs_dir is not None else RUNS_DIRS
    for folder in (Path(text), *(folder / text for folder in dirs)):
        submitted = read_submitted(folder)
        if submitted is not None:
            return submitted
    try:
        return read_submitted(find_run_folder(text, runs_dir).out_dir)
    except MonitoringError:  # it may be known to the server all the same
        return None
