"""Files are in the safetensors format, hashed as written, and never half there under their own name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import load_file

from trainer.checkpoint.files import hash_file, safetensors_chunks, write_durably
from trainer.errors import TrainError

TENSORS = {
    "a|master|0": torch.arange(12, dtype=torch.float32)[3:10],
    "half": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
    "scalar": torch.tensor(3.25, dtype=torch.float64),
    "bytes": torch.arange(9, dtype=torch.uint8),
    "ids": torch.tensor([-1, 5]),
    "mask": torch.tensor([True, False]),
    "strided": torch.arange(6, dtype=torch.float16).view(2, 3).t(),
    "empty": torch.empty(0),
}


def test_safetensors_chunks_is_read_back_by_the_library(tmp_path: Path) -> None:
    written = write_durably(tmp_path / "x.safetensors", safetensors_chunks(TENSORS))
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    content = (tmp_path / "x.safetensors").read_bytes()
    assert (written.bytes, written.digest) == (len(content), f"xxh3-128:{xxhash.xxh3_128_hexdigest(content)}")
    assert hash_file(tmp_path / "x.safetensors", written.digest) == written.digest


def test_hash_file_knows_the_hash_of_older_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"as it was saved")
    digest = f"sha256:{hashlib.sha256(b'as it was saved').hexdigest()}"
    assert hash_file(tmp_path / "file", digest) == digest


def test_safetensors_chunks_of_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(TrainError, match=r"'z' has dtype torch\.complex64"):
        next(safetensors_chunks({"z": torch.zeros(1, dtype=torch.complex64)}))


def test_write_durably_that_breaks_off_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def broken() -> Iterator[bytes]:
        yield b"new"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_durably(path, broken())
    assert path.read_bytes() == b"old"
    assert write_durably(path, iter([b"n", b"ew"])).bytes == 3
    assert path.read_bytes() == b"new"
