"""Safetensors files whose tensors come one at a time, so that no more than one is held.

A file is 8 bytes of header length, little-endian, a JSON header with each tensor's dtype, shape and place, and the
data (https://huggingface.co/docs/safetensors). The library's own writer wants all tensors at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

INDEX_NAME = "model.safetensors.index.json"
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
_CHUNK_ELEMENTS = 1 << 20
_HEADER_BYTES = 8


@dataclass(frozen=True)
class FilePlan:
    """One file: its name, its header, and where each tensor's data begin in it, in bytes."""

    name: str
    head: bytes
    starts: Mapping[str, int]
    data_bytes: int


def plan_files(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, max_bytes: int) -> list[FilePlan]:
    """Lay tensors, in their order, into files of at most `max_bytes` of data; a larger tensor has one of its own.

    One file is model.safetensors; several are numbered as Hugging Face does it.
    """
    item = dtype.itemsize
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    held = 0
    for name, shape in shapes.items():
        size = _elements(shape) * item
        if groups[-1] and held + size > max_bytes:
            groups.append({})
            held = 0
        groups[-1][name] = shape
        held += size
    count = len(groups)
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = ["model.safetensors"]
    return [_plan_file(name, group, dtype) for name, group in zip(names, groups, strict=True)]


def _elements(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _plan_file(name: str, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> FilePlan:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    at = 0
    for tensor, shape in shapes.items():
        end = at + _elements(shape) * dtype.itemsize
        header[tensor] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        starts[tensor] = at
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(_HEADER_BYTES, "little") + text
    return FilePlan(name, head, {tensor: len(head) + start for tensor, start in starts.items()}, at)


def index_json(plans: list[FilePlan]) -> dict[str, object]:
    """What model.safetensors.index.json says of several files."""
    weight_map = {name: plan.name for plan in plans for name in plan.starts}
    return {"metadata": {"total_size": sum(plan.data_bytes for plan in plans)}, "weight_map": weight_map}


class SafetensorsFiles:
    """Files under temporary names, which take tensors in any order. `publish` gives them their own names.

    What was not published goes when the block ends. OSError where the disk fails.
    """

    def __init__(self, folder: Path, plans: list[FilePlan]) -> None:
        self._folder, self._plans = folder, plans
        self._context = ExitStack()
        self._open: dict[str, tuple[BinaryIO, FilePlan]] = {}

    def __enter__(self) -> SafetensorsFiles:
        for plan in self._plans:
            path = self._temporary(plan)
            self._context.callback(path.unlink, missing_ok=True)
            file = self._context.enter_context(path.open("wb"))
            file.write(plan.head)
            file.truncate(len(plan.head) + plan.data_bytes)
            self._open.update(dict.fromkeys(plan.starts, (file, plan)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.close()

    def write(self, name: str, tensor: Tensor) -> None:
        """Put a tensor, which need not be contiguous, into its place."""
        file, plan = self._open[name]
        file.seek(plan.starts[name])
        for chunk in _chunks(tensor):
            file.write(chunk.contiguous().view(-1).view(torch.uint8).numpy().data)

    def publish(self) -> None:
        """All tensors are written: the files are synced and renamed."""
        for file, _ in self._open.values():
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())
                file.close()
        for plan in self._plans:
            self._temporary(plan).replace(self._folder / plan.name)

    def _temporary(self, plan: FilePlan) -> Path:
        return self._folder / f".{plan.name}.{os.getpid()}.tmp"


def _chunks(tensor: Tensor) -> Iterator[Tensor]:
    """Rows of a tensor, few enough that a copy of them is small."""
    if tensor.dim() < 2:
        yield tensor
        return
    rows = max(1, _CHUNK_ELEMENTS // tensor[0].numel())
    for start in range(0, len(tensor), rows):
        yield tensor[start : start + rows]
