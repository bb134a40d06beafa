"""Loading: any world size and ZeRO stage reads its fragments from the pieces that another wrote."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open

from trainer.checkpoint.files import hash_file
from trainer.checkpoint.fragments import Span, plan_reads
from trainer.checkpoint.manifest import FileRecord, Manifest
from trainer.checkpoint.storage import LocalStorage, open_checkpoint
from trainer.checkpoint.store import read_manifest, tensor_key, verify_checkpoint
from trainer.errors import TrainError


class CheckpointReader:
    """Reads parts of a verified checkpoint through memory maps, so that no more than the parts asked for is held.

    While it is open, nobody removes the checkpoint. Of one in an object store the files that are needed are copied to
    this machine, compared with their hashes, and go when the reader closes.
    """

    def __init__(self, address: Path | str, manifest: Manifest) -> None:
        self.address = str(address)
        self.manifest = manifest
        self._storage, self._folder = open_checkpoint(address)
        self._context = ExitStack()
        self._open: dict[str, Any] = {}
        self._paths: dict[str, Path] = {}
        self._pieces: dict[str, list[tuple[Span, FileRecord]]] = defaultdict(list)
        self._steps: dict[str, float] = {}
        for record in manifest.files:
            for saved in record.spans:
                self._pieces[saved.span.name].append((saved.span, record))
                self._steps[saved.span.name] = saved.step
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece[0].start)

    def __enter__(self) -> CheckpointReader:
        self._context.enter_context(self._storage.held(self._folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.clear()
        self._paths.clear()
        self._context.close()

    def step(self, name: str) -> float:
        """How many updates the optimizer made to the parameter."""
        return self._steps[name]

    def read_into(self, out: torch.Tensor, name: str, kind: str, start: int) -> None:
        """Fill `out` [length] with elements from `start` on of a parameter's master, exp_avg or exp_avg_sq."""
        pieces = self._pieces[name]
        for copy in plan_reads(Span(name, start, out.numel()), [span for span, _ in pieces]):
            span, record = pieces[copy.source]
            saved = self._file(record).get_slice(tensor_key(name, kind, span.start))
            part = saved[copy.source_start : copy.source_start + copy.length]
            out[copy.target_start : copy.target_start + copy.length].copy_(part)

    def read_weights_into(self, out: torch.Tensor, name: str, start: int) -> None:
        """Fill `out` [length] with elements from `start` on of a parameter's weights, trainable or frozen."""
        if name in self.manifest.frozen:
            out.copy_(self._whole(name, "frozen").view(-1)[start : start + out.numel()])
        else:
            self.read_into(out, name, "master", start)

    def full(self, name: str) -> torch.Tensor:
        """A parameter's whole value in its own shape, float32, trainable or frozen."""
        if name in self.manifest.frozen:
            return self._whole(name, "frozen").float()
        shape = self.manifest.shapes[name]
        out = torch.empty(math.prod(shape), dtype=torch.float32)
        self.read_into(out, name, "master", 0)
        return out.view(shape)

    def frozen(self, name: str) -> torch.Tensor:
        """A frozen parameter as it was saved."""
        return self._whole(name, "frozen")

    def buffer(self, name: str) -> torch.Tensor:
        return self._whole(name, "buffer")

    def rank_tensors(self, rank: int, world_size: int) -> dict[str, torch.Tensor] | None:
        """What that rank alone saved; None at another world size, where ranks do not correspond."""
        if world_size != self.manifest.header.world_size:
            return None
        file = self._file(next(record for record in self.manifest.files if record.rank == rank))
        suffix = tensor_key("", "rank")
        return {key.removesuffix(suffix): file.get_tensor(key) for key in file.keys() if key.endswith(suffix)}  # noqa: SIM118

    def check_model(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        frozen: Mapping[str, tuple[int, ...]],
        buffers: Mapping[str, tuple[int, ...]],
        *,
        of_other_stage: bool = False,
    ) -> None:
        """Raise TrainError unless the model has the same parameters and buffers, of the same shapes, as the saved.

        of_other_stage: what was trained may be frozen now, and the other way about.
        """
        saved = self.manifest
        pairs = [("trainable parameter", saved.shapes, shapes), ("frozen parameter", saved.frozen, frozen)]
        if of_other_stage:
            pairs = [("parameter", saved.shapes | saved.frozen, {**shapes, **frozen})]
        for what, have, want in (*pairs, ("buffer", saved.buffers, buffers)):
            for name in sorted(have.keys() | want.keys()):
                if have.get(name) != want.get(name):
                    raise TrainError(
                        f"{self.address}: {what} {name!r} must have the model's shape {want.get(name)}, the checkpoint "
                        f"has {have.get(name)}; train with the model settings of the saved run, or use another out_dir"
                    )

    def _whole(self, name: str, kind: str) -> torch.Tensor:
        record = next(record for record in self.manifest.files if record.rank == 0)
        tensor: torch.Tensor = self._file(record).get_tensor(tensor_key(name, kind))
        return tensor

    def _file(self, record: FileRecord) -> Any:
        if record.name not in self._open:
            self._open[record.name] = safe_open(self._path(record), framework="pt", device="cpu")
        return self._open[record.name]

    def let_go(self) -> None:
        """Close the files' maps, whose pages count as this process's memory once read; they open again when asked."""
        self._open.clear()

    def _path(self, record: FileRecord) -> Path:
        if record.name not in self._paths:
            self._paths[record.name] = self._on_disk(record)
        return self._paths[record.name]

    def _on_disk(self, record: FileRecord) -> Path:
        where = f"{self.address}/{record.name}"
        try:
            path = self._context.enter_context(self._storage.on_disk(f"{self._folder}/{record.name}"))
        except FileNotFoundError as error:
            raise TrainError(f"{where}: was removed after it was verified; use another checkpoint") from error
        if not isinstance(self._storage, LocalStorage) and hash_file(path, record.digest) != record.digest:
            raise TrainError(f"{where}: its bytes have changed on the way; try again, or use another checkpoint")
        return path


class SavedParameters(Mapping[str, torch.Tensor]):
    """A checkpoint's parameters by name, float32, each read when it is asked for. The reader must be open."""

    def __init__(self, reader: CheckpointReader) -> None:
        self._reader = reader
        self._names = {**reader.manifest.shapes, **reader.manifest.frozen}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._reader.full(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_full_parameters(address: Path | str, manifest: Manifest | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and float32 value of every parameter, one at a time, in the model's order; tied ones come once.

    Give the manifest of a checkpoint that is verified already (`Choice.manifest`); without one, it is verified first.
    Raises TrainError if it is not whole.
    """
    if manifest is None:
        problems = verify_checkpoint(address)
        if problems:
            raise TrainError(f"{problems[0]}; use another checkpoint")
        manifest = read_manifest(address)
    with CheckpointReader(address, manifest) as reader:
        for name in [*manifest.shapes, *manifest.frozen]:
            yield name, reader.full(name)
            reader.let_go()
