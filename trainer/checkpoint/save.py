"""Saving: every rank writes its file and leaves a mark; rank 0 writes the manifest once all marks are there.

Nothing here communicates but through the storage, so that a background thread of each rank can do it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from data_shards.errors import DataError
from trainer.checkpoint.fence import check_fence
from trainer.checkpoint.files import Chunk, safetensors_chunks
from trainer.checkpoint.fragments import KINDS, Snapshot, coverage_problems
from trainer.checkpoint.manifest import MANIFEST_NAME, FileRecord, Header, Manifest, SavedSpan, render
from trainer.checkpoint.marks import mark_name, render_mark, wait_for_marks
from trainer.checkpoint.retention import prune
from trainer.checkpoint.storage import Storage, open_storage
from trainer.checkpoint.store import checkpoints_address, file_name, folder_name, tensor_key
from trainer.errors import TrainError

MARKS_DEADLINE_SECONDS = 1800.0

_logger = logging.getLogger(__name__)

At = Callable[[int, str], None]
"""Called with (step, phase) at the points of a save: mid-save, before-rename, after-save."""


def no_fault(step: int, phase: str) -> None:
    """The `At` of a run in which no fault was asked for."""


@dataclass(frozen=True)
class SaveTask:
    """One rank's part of one save. All ranks of a save have the same header and number.

    `number` counts the saves of an attempt, so that the marks of two saves of one step differ; `address` is where the
    checkpoints lie if not in OUT_DIR; `cancelled`, once set, ends rank 0's wait for the others.
    """

    out_dir: Path
    header: Header
    snapshot: Snapshot
    rank: int
    number: int = 1
    keep: int = 3
    address: str | None = None
    at: At = no_fault
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def folder(self) -> str:
        return folder_name(self.header.step, self.header.attempt)

    def open(self) -> Storage:
        return open_storage(checkpoints_address(self.out_dir, self.address))


@dataclass(frozen=True)
class SaveResult:
    """Where this rank's part went. `bytes` is the whole checkpoint on rank 0 and this rank's file elsewhere."""

    address: str
    bytes: int
    seconds: float


def save_checkpoint(task: SaveTask) -> SaveResult:
    """Write this rank's part of a checkpoint; on rank 0 wait for the others' and make it count.

    A newer attempt that comes to the same step again writes to a folder of its own. Old checkpoints are removed
    afterwards (see `retention.prune`).

    Raises:
        OSError, DataError: the storage failed.
        FencedError: a newer attempt has begun.
        SaveCancelledError: `task.cancelled` was set.
        TrainError: the ranks' fragments do not make up the parameters, or a mark is damaged.
    """
    started = time.perf_counter()
    storage, header = task.open(), task.header
    if task.rank == 0:
        storage.withdraw(f"{task.folder}/{MANIFEST_NAME}")  # of an earlier save of this step by this attempt
    record = write_part(storage, task)
    size = record.bytes
    if task.rank == 0:
        records = wait_for_marks(
            storage,
            task.folder,
            header,
            task.number,
            deadline_seconds=MARKS_DEADLINE_SECONDS,
            pause=task.cancelled.wait,
        )
        check_fence(task.out_dir, header.attempt)
        size = write_manifest(storage, task, records).bytes
        _remove_old(task)
    task.at(header.step, "after-save")
    return SaveResult(f"{storage.address}/{task.folder}", size, time.perf_counter() - started)


def _remove_old(task: SaveTask) -> None:
    """Retention; where the storage fails, old checkpoints stay until a later save and this one is good all the same."""
    check_fence(task.out_dir, task.header.attempt)
    try:
        prune(task.out_dir, task.address, keep=task.keep, attempt=task.header.attempt)
    except (OSError, DataError) as error:
        _logger.warning("old checkpoints could not be removed: %s", error)


def write_part(storage: Storage, task: SaveTask) -> FileRecord:
    """Write this rank's file and its mark, and say what is in the file."""
    step, rank, world_size = task.header.step, task.rank, task.header.world_size
    name = file_name(rank, world_size)
    chunks = _with_middle(safetensors_chunks(_tensors_of(task.snapshot, rank)), lambda: task.at(step, "mid-save"))
    written = storage.write(f"{task.folder}/{name}", chunks, lambda: task.at(step, "before-rename"))
    spans = tuple(SavedSpan(fragment.span, fragment.step) for fragment in task.snapshot.fragments)
    record = FileRecord(name, rank, written.bytes, written.digest, spans)
    mark = render_mark(task.header, task.number, record)
    storage.write(f"{task.folder}/{mark_name(rank, world_size)}", iter([mark]))
    return record


def write_manifest(storage: Storage, task: SaveTask, records: Sequence[FileRecord]) -> Manifest:
    """Make the files a checkpoint. Raises TrainError unless they hold every element exactly once."""
    snapshot = task.snapshot
    problems = coverage_problems(snapshot.shapes, (saved.span for record in records for saved in record.spans))
    if problems:
        raise TrainError(f"{task.folder}: the ranks' fragments must make up the parameters; {'; '.join(problems[:5])}")
    manifest = Manifest(
        header=task.header,
        time=time.time(),
        shapes={name: tuple(shape) for name, shape in snapshot.shapes.items()},
        frozen={name: tuple(tensor.shape) for name, tensor in snapshot.frozen.items()},
        buffers={name: tuple(tensor.shape) for name, tensor in snapshot.buffers.items()},
        loss_scale=dict(snapshot.loss_scale) if snapshot.loss_scale is not None else None,
        files=tuple(records),
    )
    storage.publish(f"{task.folder}/{MANIFEST_NAME}", render(manifest))
    return manifest


def _with_middle(chunks: Iterator[Chunk], in_the_middle: Callable[[], None]) -> Iterator[Chunk]:
    """The chunks; after the header and the first piece of data, or at the end, the call."""
    yield next(chunks)
    first = next(chunks, None)
    if first is not None:
        yield first
    in_the_middle()
    yield from chunks


def _tensors_of(snapshot: Snapshot, rank: int) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for fragment in snapshot.fragments:
        for kind in KINDS:
            tensors[tensor_key(fragment.name, kind, fragment.start)] = getattr(fragment, kind)
    tensors |= {tensor_key(name, "rank"): tensor for name, tensor in snapshot.rank_tensors.items()}
    if rank == 0:
        tensors |= {tensor_key(name, "frozen"): tensor for name, tensor in snapshot.frozen.items()}
        tensors |= {tensor_key(name, "buffer"): tensor for name, tensor in snapshot.buffers.items()}
    return tensors
