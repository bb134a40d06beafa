"""Files that are whole or absent: safetensors and bytes written under a temporary name, synced, renamed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from trainer.checkpoint.direct_file import DirectFile
from trainer.errors import TrainError

CHUNK_BYTES = 4 << 20

Chunk = bytes | memoryview

HASH = "xxh3-128"
HASHES: dict[str, Callable[[], Any]] = {"xxh3-128": xxhash.xxh3_128, "sha256": hashlib.sha256}
"""Checkpoints are written with HASH; those of before had SHA-256.

Chosen by measurement: what hashes takes time from the training beside it, and 240 MB take XXH3 0.01 s and SHA-256, with
the processor's own instructions, 0.13 s. It finds damage; against forgery no hash helps that lies beside the files.
"""

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Written:
    """Size and digest of a file (as `hash_file` gives it), from the bytes in memory and not read back."""

    bytes: int
    digest: str


def nothing() -> None:
    """What is done before a rename where nothing is to be done."""


def write_durably(path: Path, chunks: Iterator[Chunk], before_rename: Callable[[], None] = nothing) -> Written:
    """Write `chunks` under a temporary name, sync, rename to `path`, sync the folder. OSError where the disk fails."""
    temporary = path.with_name(f".{path.name}.tmp")
    digest = HASHES[HASH]()
    size = 0
    with DirectFile(temporary) as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.sync()
    before_rename()
    temporary.replace(path)
    sync_folder(path.parent)
    return Written(size, f"{HASH}:{digest.hexdigest()}")


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path, like: str) -> str:
    """A file's digest by the same hash as another digest: the hash's name, a colon, hexadecimal digits."""
    name = like.partition(":")[0]
    with path.open("rb") as file:
        return f"{name}:{hashlib.file_digest(file, HASHES[name]).hexdigest()}"


def safetensors_chunks(tensors: Mapping[str, torch.Tensor]) -> Iterator[Chunk]:
    """The bytes of a safetensors file, the header first.

    The library's own writer copies every tensor first and leaves the hash to a second reading; here a tensor is
    copied only if it lies on an accelerator or is not contiguous. Format: 8 bytes of header length, little-endian, a
    JSON header, the raw data (https://huggingface.co/docs/safetensors). Raises TrainError for a dtype without a name.
    """
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise TrainError(f"tensor {name!r} has dtype {tensor.dtype}, which a checkpoint cannot hold")
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(raw), CHUNK_BYTES):
            yield raw[start : start + CHUNK_BYTES]
