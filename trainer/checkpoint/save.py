"""Saving: every rank writes its file, rank 0 writes the manifest once all files are safe on the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.checkpoint.files import sync_folder, write_durably, write_tensors
from trainer.checkpoint.fragments import KINDS, Snapshot, coverage_problems
from trainer.checkpoint.manifest import MANIFEST_NAME, FileRecord, Header, Manifest, SavedSpan, render
from trainer.checkpoint.store import checkpoint_folder, file_name, prune, tensor_key
from trainer.errors import TrainError

# Rank 0 gets every rank's record in the order of ranks, the others None. It is also the barrier before the manifest.
Gather = Callable[[FileRecord], Sequence[FileRecord] | None]


@dataclass(frozen=True)
class SaveResult:
    """Where this rank's part went. `bytes` is the whole checkpoint on rank 0 and this rank's file elsewhere."""

    path: Path
    bytes: int
    seconds: float


def save_checkpoint(
    out_dir: Path, header: Header, snapshot: Snapshot, *, rank: int, gather: Gather, keep: int = 3
) -> SaveResult:
    """Write a checkpoint under `out_dir`; all ranks call it together.

    It counts once rank 0 has returned. A newer attempt that comes to the same step again writes to a folder of its
    own; the same attempt saving the same step twice writes the same bytes. Old checkpoints are removed afterwards
    (see `store.prune`). Raises TrainError if the ranks' fragments do not make up the parameters.
    """
    started = time.perf_counter()
    folder = checkpoint_folder(out_dir, header.step, header.attempt)
    folder.mkdir(parents=True, exist_ok=True)
    record = write_rank_file(folder, snapshot, rank=rank, world_size=header.world_size)
    records = gather(record)
    if records is None:
        return SaveResult(folder, record.bytes, time.perf_counter() - started)
    manifest = write_manifest(folder, header, snapshot, records)
    prune(out_dir, keep=keep, attempt=header.attempt)
    return SaveResult(folder, manifest.bytes, time.perf_counter() - started)


def write_rank_file(folder: Path, snapshot: Snapshot, *, rank: int, world_size: int) -> FileRecord:
    """Write one rank's file and say what is in it."""
    name = file_name(rank, world_size)
    written = write_tensors(folder / name, _tensors_of(snapshot, rank))
    spans = tuple(SavedSpan(fragment.span, fragment.step) for fragment in snapshot.fragments)
    return FileRecord(name, rank, written.bytes, written.sha256, spans)


def write_manifest(folder: Path, header: Header, snapshot: Snapshot, records: Sequence[FileRecord]) -> Manifest:
    """Make the files in `folder` a checkpoint. Raises TrainError unless they hold every element exactly once."""
    problems = coverage_problems(snapshot.shapes, (saved.span for record in records for saved in record.spans))
    if problems:
        raise TrainError(f"{folder}: the ranks' fragments must make up the parameters; {'; '.join(problems[:5])}")
    manifest = Manifest(
        header=header,
        time=time.time(),
        shapes={name: tuple(shape) for name, shape in snapshot.shapes.items()},
        frozen={name: tuple(tensor.shape) for name, tensor in snapshot.frozen.items()},
        buffers={name: tuple(tensor.shape) for name, tensor in snapshot.buffers.items()},
        loss_scale=dict(snapshot.loss_scale) if snapshot.loss_scale is not None else None,
        files=tuple(records),
    )
    write_durably(folder / MANIFEST_NAME, iter([render(manifest)]))
    sync_folder(folder.parent)
    return manifest


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
