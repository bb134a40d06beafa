"""Files written past the page cache are what was written, also where that is refused half way."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.checkpoint import direct_file
from trainer.checkpoint.direct_file import ALIGNMENT_BYTES, BUFFER_BYTES, DirectFile

SIZES = st.lists(
    st.sampled_from([0, 1, 7, ALIGNMENT_BYTES - 1, ALIGNMENT_BYTES, BUFFER_BYTES, BUFFER_BYTES + 5, 100_000]),
    max_size=6,
)


def data(sizes: list[int]) -> list[bytes]:
    generator = np.random.default_rng(sum(sizes))
    return [generator.integers(0, 256, size, dtype=np.uint8).tobytes() for size in sizes]


def written(path: Path, pieces: list[bytes]) -> bytes:
    with DirectFile(path) as file:
        for piece in pieces:
            file.write(memoryview(piece))
        file.sync()
    return path.read_bytes()


@given(sizes=SIZES)
@settings(max_examples=25, deadline=None)
def test_direct_file_holds_the_pieces_of_any_size_one_after_the_other(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    pieces = data(sizes)
    path = tmp_path_factory.mktemp("direct") / "file"
    path.write_bytes(b"older and longer" * 1000)
    assert written(path, pieces) == b"".join(pieces)


def test_direct_file_where_the_file_system_has_no_direct_writes_is_an_ordinary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Callable[..., int] = os.open

    def refusing(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct writes here")
        return opened(path, flags, mode)

    monkeypatch.setattr(direct_file.os, "open", refusing)
    pieces = data([BUFFER_BYTES + 5, 7])
    assert written(tmp_path / "file", pieces) == b"".join(pieces)


def test_direct_file_goes_on_as_an_ordinary_one_after_a_write_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[..., int] = os.write
    calls = []

    def refusing_the_second(fd: int, piece: Any) -> int:
        calls.append(len(piece))
        if len(calls) == 2:
            raise OSError(errno.EINVAL, "not this size")
        return write(fd, piece)

    monkeypatch.setattr(direct_file.os, "write", refusing_the_second)
    pieces = data([3 * BUFFER_BYTES + 5])
    assert written(tmp_path / "file", pieces) == pieces[0]
    assert calls == [BUFFER_BYTES, BUFFER_BYTES, BUFFER_BYTES, BUFFER_BYTES, 5]


def test_direct_file_on_a_full_device_raises(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.symlink_to("/dev/full")
    with DirectFile(path) as file, pytest.raises(OSError, match="No space left") as caught:
        file.write(bytes(BUFFER_BYTES))
    assert caught.value.errno == errno.ENOSPC
