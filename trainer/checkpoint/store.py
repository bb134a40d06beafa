"""The folder of checkpoints: their names, which there are, whether each is whole, which one to load, which to remove.

OUT_DIR/checkpoints/step-00000200/ holds the first attempt's checkpoint of step 200, `step-00000200-attempt-0002` that
of the second attempt. Time order is (attempt, step): what an older attempt writes late never counts as newer.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint.files import hash_file, sync_folder
from trainer.checkpoint.fragments import coverage_problems
from trainer.checkpoint.manifest import MANIFEST_NAME, FileRecord, Manifest, read_manifest
from trainer.errors import TrainError

HASH_THREADS = 8
NO_MANIFEST = "has no manifest and so is no checkpoint: a save was cut short there, or the file was removed"
MIN_KEEP = 2

_FOLDER = re.compile(r"step-(\d{8,})(?:-attempt-(\d{4,}))?")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A checkpoint on disk. `manifest` is None, and `problem` says why, if the manifest cannot be read."""

    path: Path
    attempt: int
    step: int
    manifest: Manifest | None
    problem: str | None = None


@dataclass(frozen=True)
class Choice:
    """The checkpoint to load, verified, and the newer ones that were passed over, each with the reason."""

    path: Path
    manifest: Manifest
    skipped: tuple[tuple[Path, str], ...]


def checkpoint_folder(out_dir: Path, step: int, attempt: int) -> Path:
    """Folder of an attempt's checkpoint of a step."""
    suffix = f"-attempt-{attempt:04d}" if attempt > 1 else ""
    return out_dir / "checkpoints" / f"step-{step:08d}{suffix}"


def file_name(rank: int, world_size: int) -> str:
    """Name of a rank's file within a checkpoint."""
    return f"rank-{rank:05d}-of-{world_size:05d}.safetensors"


def tensor_key(name: str, kind: str, start: int = 0) -> str:
    """Name of a tensor in a rank's file. Kinds: master, exp_avg, exp_avg_sq, frozen, buffer, rank."""
    return f"{name}|{kind}|{start}"


def list_checkpoints(out_dir: Path) -> list[Entry]:
    """All folders that have a manifest, the oldest first; whether their files are whole is not looked at."""
    return [_entry(path, attempt, step) for attempt, step, path in _folders(out_dir) if (path / MANIFEST_NAME).exists()]


def verify_checkpoint(folder: Path) -> list[str]:
    """Read every byte of a checkpoint; sentences, each naming a file, on what is wrong. None: it is whole."""
    try:
        manifest = read_manifest(folder)
    except (TrainError, OSError) as error:
        return [str(error)]
    problems = quick_problems(folder, manifest)
    if problems:
        return problems
    with ThreadPoolExecutor(max_workers=HASH_THREADS) as pool:
        found = pool.map(lambda record: _hash_problem(folder, record), manifest.files)
        return [problem for problem in found if problem is not None]


def quick_problems(folder: Path, manifest: Manifest) -> list[str]:
    """What can be told without reading the files: presence, sizes, and whether the fragments make up the parameters."""
    problems = [problem for record in manifest.files if (problem := _size_problem(folder, record)) is not None]
    spans = (saved.span for record in manifest.files for saved in record.spans)
    return problems + [f"{folder / MANIFEST_NAME}: {what}" for what in coverage_problems(manifest.shapes, spans)]


def newest_good(out_dir: Path) -> Choice | None:
    """The newest checkpoint of which every byte is as it was written; None if there is no checkpoint at all.

    Each bad one that is passed over is logged as a warning that names the bad file. Raises TrainError if there are
    checkpoints and none is good: training must not start again from step 0 without a word.
    """
    skipped: list[tuple[Path, str]] = []
    for entry in reversed(list_checkpoints(out_dir)):
        problems = verify_checkpoint(entry.path)
        if not problems:
            skipped += [(path, NO_MANIFEST) for path in incomplete_folders(out_dir) if _place(path) > _order(entry)]
            return Choice(entry.path, read_manifest(entry.path), tuple(skipped))
        _logger.warning("checkpoint %s is bad, falling back to the one before: %s", entry.path, "; ".join(problems))
        skipped.append((entry.path, "; ".join(problems)))
    if skipped:
        raise TrainError(
            f"{out_dir / 'checkpoints'}: none of the {len(skipped)} checkpoints is whole, the newest because of "
            f"{skipped[0][1]}; put the files back, or remove the folder to start from step 0"
        )
    for path in incomplete_folders(out_dir):
        _logger.warning("%s %s", path, NO_MANIFEST)
    return None


def agree_on_checkpoint(out_dir: Path, *, rank: int, broadcast: Callable[[Any], Any]) -> Choice | None:
    """`newest_good` of rank 0 on all ranks. `broadcast(value)` gives every rank the value that rank 0 passed.

    An error of rank 0 is raised by all.
    """
    choice: Choice | None = None
    error: str | None = None
    if rank == 0:
        try:
            choice = newest_good(out_dir)
        except TrainError as refusal:
            error = str(refusal)
    choice, error = broadcast((choice, error))
    if error is not None:
        raise TrainError(error)
    return choice


def incomplete_folders(out_dir: Path) -> list[Path]:
    """Folders of saves that never came to a manifest."""
    return [path for _, _, path in _folders(out_dir) if not (path / MANIFEST_NAME).exists()]


def prune(out_dir: Path, *, keep: int, attempt: int) -> list[Path]:
    """Remove what is older than the newest `keep` good checkpoints (at least two are kept); say what went.

    Good means here: readable manifest, all files there with the right sizes. Folders without a manifest go if an
    attempt before `attempt` left them and a newer checkpoint is complete.
    """
    entries = list_checkpoints(out_dir)
    good = [entry for entry in entries if entry.manifest and not quick_problems(entry.path, entry.manifest)]
    kept = good[-max(keep, MIN_KEEP) :]
    doomed = [entry.path for entry in entries if len(kept) >= MIN_KEEP and _order(entry) < _order(kept[0])]
    if good:
        newest = _order(good[-1])
        torn = [(a, s, path) for a, s, path in _folders(out_dir) if not (path / MANIFEST_NAME).exists()]
        doomed += [path for a, s, path in torn if a < attempt and (a, s) < newest]
    for path in doomed:
        _remove(path)
    return doomed


def inspect_checkpoint(folder: Path) -> dict[str, Any]:
    """What a checkpoint is, as plain JSON values. Raises TrainError if it has no readable manifest."""
    manifest = read_manifest(folder)
    header = manifest.header
    return {
        "path": str(folder),
        **{field: getattr(header, field) for field in header.__dataclass_fields__},
        "settings_digest": manifest.settings_digest,
        "time": manifest.time,
        "loss_scale": manifest.loss_scale,
        "bytes": manifest.bytes,
        "files": [{"name": record.name, "bytes": record.bytes, "sha256": record.sha256} for record in manifest.files],
        "parameters": {name: list(shape) for name, shape in (manifest.shapes | manifest.frozen).items()},
        "frozen": sorted(manifest.frozen),
        "buffers": sorted(manifest.buffers),
        "optimizer_steps": sorted({saved.step for record in manifest.files for saved in record.spans}),
    }


def _folders(out_dir: Path) -> list[tuple[int, int, Path]]:
    root = out_dir / "checkpoints"
    if not root.is_dir():
        return []
    matches = [(path, match) for path in root.iterdir() if (match := _FOLDER.fullmatch(path.name)) and path.is_dir()]
    return sorted((int(match[2] or 1), int(match[1]), path) for path, match in matches)


def _entry(path: Path, attempt: int, step: int) -> Entry:
    try:
        return Entry(path, attempt, step, read_manifest(path))
    except (TrainError, OSError) as error:
        return Entry(path, attempt, step, None, str(error))


def _place(path: Path) -> tuple[int, int]:
    """(attempt, step) of a checkpoint's folder."""
    match = _FOLDER.fullmatch(path.name)
    assert match is not None
    return int(match[2] or 1), int(match[1])


def _order(entry: Entry) -> tuple[int, int]:
    return entry.attempt, entry.step


def _size_problem(folder: Path, record: FileRecord) -> str | None:
    path = folder / record.name
    if not path.is_file():
        return f"{path}: the file is missing"
    size = path.stat().st_size
    return None if size == record.bytes else f"{path}: must have {record.bytes} bytes, has {size}"


def _hash_problem(folder: Path, record: FileRecord) -> str | None:
    path = folder / record.name
    try:
        found = hash_file(path)
    except OSError as error:
        return f"{path}: cannot be read ({error})"
    if found == record.sha256:
        return None
    return f"{path}: its bytes have changed (SHA-256 must be {record.sha256[:16]}..., is {found[:16]}...)"


def _remove(path: Path) -> None:
    """The manifest goes first: a removal that is cut short leaves no checkpoint that seems whole."""
    (path / MANIFEST_NAME).unlink(missing_ok=True)
    sync_folder(path)
    shutil.rmtree(path)
