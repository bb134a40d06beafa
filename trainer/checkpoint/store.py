"""The checkpoints of a run: their names, which there are, whether each is whole, which one to load.

They lie in OUT_DIR/checkpoints, or at the address that the run file gives. step-00000200/ holds the first attempt's
checkpoint of step 200, `step-00000200-attempt-0002` that of the second attempt. Time order is (attempt, step): what an
older attempt writes late never counts as newer, nor at all (see `fence`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_shards.errors import DataError
from trainer.checkpoint.fence import is_believed, resumed_steps
from trainer.checkpoint.files import hash_file
from trainer.checkpoint.fragments import coverage_problems
from trainer.checkpoint.manifest import MANIFEST_NAME, FileRecord, Manifest, parse
from trainer.checkpoint.storage import Storage, open_checkpoint, open_storage
from trainer.errors import TrainError

HASH_THREADS = 8
NO_MANIFEST = (
    "has no manifest and so is no checkpoint: a save is under way or was cut short there, or the file was removed"
)
FENCED = "was written by an attempt after a newer one had gone on from an earlier step, and does not count"

_FOLDER = re.compile(r"step-(\d{8,})(?:-attempt-(\d{4,}))?")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A checkpoint's folder. `manifest` is None, and `problem` says why, if the manifest cannot be read.

    `is_believed` is False for what an attempt wrote after a newer one had gone on from an earlier step.
    """

    name: str
    address: str
    attempt: int
    step: int
    manifest: Manifest | None
    problem: str | None = None
    is_believed: bool = True

    @property
    def order(self) -> tuple[int, int]:
        """What checkpoints are sorted by, in time."""
        return self.attempt, self.step


@dataclass(frozen=True)
class Choice:
    """The checkpoint to load, verified, and the newer ones that were passed over, each with the reason."""

    address: str
    manifest: Manifest
    skipped: tuple[tuple[str, str], ...]


def checkpoints_address(out_dir: Path, address: str | None = None) -> str:
    """Where a run's checkpoints lie: at the address that its run file gives, or in its folder."""
    return address or str(out_dir.absolute() / "checkpoints")


def folder_name(step: int, attempt: int) -> str:
    """Name of the folder of an attempt's checkpoint of a step."""
    return f"step-{step:08d}" + (f"-attempt-{attempt:04d}" if attempt > 1 else "")


def file_name(rank: int, world_size: int) -> str:
    """Name of a rank's file within a checkpoint."""
    return f"rank-{rank:05d}-of-{world_size:05d}.safetensors"


def tensor_key(name: str, kind: str, start: int = 0) -> str:
    """Name of a tensor in a rank's file. Kinds: master, exp_avg, exp_avg_sq, frozen, buffer, rank."""
    return f"{name}|{kind}|{start}"


def read_manifest(address: Path | str) -> Manifest:
    """The manifest of the checkpoint at an address. Raises TrainError if there is none or it is damaged."""
    storage, folder = open_checkpoint(address)
    return _manifest(storage, folder)


def list_checkpoints(out_dir: Path, address: str | None = None) -> list[Entry]:
    """All folders that have a manifest, the oldest first; whether their files are whole is not looked at."""
    storage, resumed = open_storage(checkpoints_address(out_dir, address)), resumed_steps(out_dir)
    named = [(attempt, step, name) for attempt, step, name in _folders(storage) if _is_complete(storage, name)]
    return [_entry(storage, name, attempt, step, is_believed(attempt, step, resumed)) for attempt, step, name in named]


def incomplete_folders(out_dir: Path, address: str | None = None) -> list[Entry]:
    """Folders of saves that never came to a manifest, or that are on their way to one; the oldest first."""
    storage = open_storage(checkpoints_address(out_dir, address))
    return [
        Entry(name, f"{storage.address}/{name}", attempt, step, None, NO_MANIFEST)
        for attempt, step, name in _folders(storage)
        if not _is_complete(storage, name)
    ]


def verify_checkpoint(address: Path | str) -> list[str]:
    """Read every byte of a checkpoint; sentences, each naming a file, on what is wrong. None: it is whole."""
    storage, folder = open_checkpoint(address)
    with storage.held(folder):
        try:
            manifest = _manifest(storage, folder)
        except (TrainError, OSError) as error:
            return [str(error)]
        problems = quick_problems(storage, folder, manifest)
        if problems:
            return problems
        with ThreadPoolExecutor(max_workers=HASH_THREADS) as pool:
            found = pool.map(lambda record: hash_problem(storage, folder, record), manifest.files)
            return [problem for problem in found if problem is not None]


def quick_problems(storage: Storage, folder: str, manifest: Manifest) -> list[str]:
    """What can be told without reading the files: presence, sizes, and whether the fragments make up the parameters."""
    where, sizes = f"{storage.address}/{folder}", storage.sizes(folder)
    problems = [_size_problem(where, record, sizes.get(record.name)) for record in manifest.files]
    spans = (saved.span for record in manifest.files for saved in record.spans)
    uncovered = [f"{where}/{MANIFEST_NAME}: {what}" for what in coverage_problems(manifest.shapes, spans)]
    return [problem for problem in problems if problem is not None] + uncovered


def hash_problem(storage: Storage, folder: str, record: FileRecord) -> str | None:
    """A sentence if the file's bytes are not those that were written, or cannot be read."""
    where = f"{storage.address}/{folder}/{record.name}"
    try:
        with storage.on_disk(f"{folder}/{record.name}") as path:
            found = hash_file(path, record.digest)
    except (OSError, DataError) as error:
        return f"{where}: cannot be read ({error})"
    if found == record.digest:
        return None
    return f"{where}: its bytes have changed (digest must be {record.digest}, is {found})"


def newest_good(out_dir: Path, address: str | None = None) -> Choice | None:
    """The newest checkpoint that counts and of which every byte is as it was written; None if there is none at all.

    Each bad one that is passed over is logged as a warning that names the bad file. Raises TrainError if there are
    checkpoints and none is good: training must not start again from step 0 without a word.
    """
    skipped: list[tuple[str, str]] = []
    incomplete = incomplete_folders(out_dir, address)
    for entry in reversed(list_checkpoints(out_dir, address)):
        if not entry.is_believed:
            _logger.warning("checkpoint %s %s", entry.address, FENCED)
            continue
        problems = verify_checkpoint(entry.address)
        if not problems:
            skipped += [(torn.address, NO_MANIFEST) for torn in incomplete if torn.order > entry.order]
            return Choice(entry.address, read_manifest(entry.address), tuple(skipped))
        _logger.warning("checkpoint %s is bad, falling back to the one before: %s", entry.address, "; ".join(problems))
        skipped.append((entry.address, "; ".join(problems)))
    if skipped:
        raise TrainError(
            f"{checkpoints_address(out_dir, address)}: none of the {len(skipped)} checkpoints is whole, the newest "
            f"because of {skipped[0][1]}; put the files back, or remove the folder to start from step 0"
        )
    for torn in incomplete:
        _logger.warning("%s %s", torn.address, NO_MANIFEST)
    return None


def agree_on_checkpoint(
    out_dir: Path, address: str | None = None, *, rank: int, broadcast: Callable[[Any], Any]
) -> Choice | None:
    """`newest_good` of rank 0 on all ranks. `broadcast(value)` gives every rank the value that rank 0 passed.

    An error of rank 0 is raised by all.
    """
    choice: Choice | None = None
    error: str | None = None
    if rank == 0:
        try:
            choice = newest_good(out_dir, address)
        except (TrainError, DataError, OSError) as refusal:
            error = str(refusal)
    choice, error = broadcast((choice, error))
    if error is not None:
        raise TrainError(error)
    return choice


def inspect_checkpoint(address: Path | str) -> dict[str, Any]:
    """What a checkpoint is, as plain JSON values. Raises TrainError if it has no readable manifest."""
    manifest = read_manifest(address)
    header = manifest.header
    return {
        "path": str(address),
        **{field: getattr(header, field) for field in header.__dataclass_fields__},
        "settings_digest": manifest.settings_digest,
        "time": manifest.time,
        "loss_scale": manifest.loss_scale,
        "bytes": manifest.bytes,
        "files": [{"name": record.name, "bytes": record.bytes, "digest": record.digest} for record in manifest.files],
        "parameters": {name: list(shape) for name, shape in (manifest.shapes | manifest.frozen).items()},
        "frozen": sorted(manifest.frozen),
        "buffers": sorted(manifest.buffers),
        "optimizer_steps": sorted({saved.step for record in manifest.files for saved in record.spans}),
    }


def _folders(storage: Storage) -> Iterator[tuple[int, int, str]]:
    """(attempt, step, name) of every folder that is named as a checkpoint, the oldest first."""
    matches = [match for name in storage.folders() if (match := _FOLDER.fullmatch(name))]
    yield from sorted((int(match[2] or 1), int(match[1]), match[0]) for match in matches)


def _is_complete(storage: Storage, name: str) -> bool:
    return MANIFEST_NAME in storage.sizes(name)


def _entry(storage: Storage, name: str, attempt: int, step: int, counts: bool) -> Entry:
    address = f"{storage.address}/{name}"
    try:
        return Entry(name, address, attempt, step, _manifest(storage, name), None, counts)
    except (TrainError, OSError) as error:
        return Entry(name, address, attempt, step, None, str(error), counts)


def _manifest(storage: Storage, folder: str) -> Manifest:
    name = f"{folder}/{MANIFEST_NAME}"
    path = f"{storage.address}/{name}"
    text = storage.read(name)
    if text is None:
        raise TrainError(f"{path}: a checkpoint must have a manifest, this folder has none; give a checkpoint's folder")
    return parse(text, path)


def _size_problem(where: str, record: FileRecord, size: int | None) -> str | None:
    if size is None:
        return f"{where}/{record.name}: the file is missing"
    return None if size == record.bytes else f"{where}/{record.name}: must have {record.bytes} bytes, has {size}"
