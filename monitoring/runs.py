"""Run folders: `run.json` (who the run is) and `run.yaml` (its resolved run file), and how to find one."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from monitoring.errors import MonitoringError

RUNS_DIR = Path("runs")


@dataclass(frozen=True)
class RunFolder:
    """A run that was started: its folder and what `run.json` says of it."""

    out_dir: Path
    run_id: str  # made once, when the run is first started or submitted
    name: str
    created: float  # unix seconds

    @property
    def run_file(self) -> Path:
        """The resolved run file."""
        return self.out_dir / "run.yaml"

    def settings(self) -> dict[str, Any]:
        """The resolved run file as nested values; empty if there is none. MonitoringError if it is no YAML mapping."""
        if not self.run_file.exists():
            return {}
        try:
            values = yaml.safe_load(self.run_file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise MonitoringError(f"{self.run_file}: must be YAML, found {error}; restore it from MLflow") from error
        if not isinstance(values, dict):
            raise MonitoringError(f"{self.run_file}: must be a YAML mapping, found a {type(values).__name__}")
        return values


def new_run_id() -> str:
    """A new run id: the date (UTC) and twelve random hex digits."""
    return f"{time.strftime('%Y%m%d', time.gmtime())}-{uuid.uuid4().hex[:12]}"


def create_run_folder(out_dir: Path, run_id: str | None, name: str, run_file_text: str) -> RunFolder:
    """Makes `out_dir` a run's folder, or finds that it is one: then its first run id, name and date stay.

    `run.yaml` is replaced by `run_file_text` each time, since a resume may change settings. Each file is whole or
    absent at any moment; of two callers at once, one makes the run and both get it.
    `run_id` None: a new one is made.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    run = RunFolder(out_dir, run_id or new_run_id(), name, time.time())
    _write_whole(out_dir / "run.yaml", run_file_text)
    draft = _write_draft(out_dir / "run.json", _to_json(run))
    try:
        os.link(draft, out_dir / "run.json")
    except FileExistsError:
        return read_run_folder(out_dir)
    finally:
        draft.unlink()
    return run


def read_run_folder(out_dir: Path) -> RunFolder:
    """The run in `out_dir`; MonitoringError if `run.json` is absent or broken."""
    path = out_dir / "run.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return RunFolder(out_dir, str(values["run_id"]), str(values["name"]), float(values["created"]))
    except FileNotFoundError as error:
        raise MonitoringError(f"{out_dir}: is no run's folder, it has no run.json; give the folder of a run") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MonitoringError(
            f"{path}: must be a JSON object with run_id, name and created, found {path.read_text()[:80]!r}; restore it"
        ) from error


def list_runs(runs_dir: Path = RUNS_DIR) -> list[RunFolder]:
    """The runs whose folders lie in `runs_dir`, oldest first."""
    folders = sorted(path.parent for path in runs_dir.glob("*/run.json"))
    return sorted(map(read_run_folder, folders), key=lambda run: run.created)


def find_run(text: str, runs_dir: Path = RUNS_DIR) -> RunFolder:
    """The run that `text` means: its folder, the name of its folder in `runs_dir`, its run id, or its name.

    The id of a job that was submitted for it (the run id, `-` and a number) means the run too.

    MonitoringError if there is none, or if several runs have that name.
    """
    for folder in (Path(text), runs_dir / text):
        if (folder / "run.json").is_file():
            return read_run_folder(folder)
    runs = list_runs(runs_dir)
    found = [run for run in runs if is_id_of(text, run.run_id)] or [run for run in runs if run.name == text]
    if len(found) == 1:
        return found[0]
    if found:
        folders = ", ".join(str(run.out_dir) for run in found)
        raise MonitoringError(f"RUN {text!r}: the name must be that of one run, found {folders}; give the folder")
    known = ", ".join(run.name for run in runs[-10:]) or "none"
    raise MonitoringError(
        f"RUN {text!r}: must be a run's name, folder or id, found neither a folder with a run.json nor such a run "
        f"in {runs_dir.absolute()} (newest there: {known}); check the spelling or give the folder"
    )


def is_id_of(text: str, run_id: str) -> bool:
    """Whether `text` is the run's id or that of one of its submissions."""
    rest = text.removeprefix(run_id)
    return text.startswith(run_id) and (rest == "" or (rest[0] == "-" and rest[1:].isdigit()))


def _to_json(run: RunFolder) -> str:
    return json.dumps({"run_id": run.run_id, "name": run.name, "created": run.created}, ensure_ascii=False) + "\n"


def _write_whole(path: Path, text: str) -> None:
    _write_draft(path, text).replace(path)


def _write_draft(path: Path, text: str) -> Path:
    """The text under a name of its own beside `path`, on the disk."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return draft
