"""The shards of one unit: one for each split that has documents."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_shards.manifest import Shard
from data_shards.shard_writer import Mark, ShardWriter
from data_shards.storage import Folder


@dataclass(frozen=True)
class ShardForm:
    """What a unit's shards have in common."""

    unit: str
    source: str
    number: int
    dtype: str
    eot_id: int
    block_tokens: int


class SplitOutput:
    """The shard of one split. Its file begins with its first document, and is gone with `stack` unless closed."""

    def __init__(self, folder: Folder, form: ShardForm, split: str, stack: ExitStack) -> None:
        self._folder = folder
        self._form = form
        self._split = split
        self._stack = stack
        self._writer: ShardWriter | None = None
        self._text_bytes = 0
        self._mark: tuple[Mark, int] | None = None

    def add(
        self, ids: NDArray[np.uint32], offsets: NDArray[np.int64], text_bytes: int, *, unfinished: bool = False
    ) -> None:
        """Append documents as `ShardWriter.add_flat` does; `text_bytes` are those of their text in UTF-8."""
        self._begun().add_flat(ids, offsets, unfinished=unfinished)
        self._text_bytes += text_bytes

    def add_rows(self, stored: NDArray[np.uint32], starts: NDArray[np.int64], text_bytes: int) -> None:
        """Append examples as `ShardWriter.add_stored` does; `text_bytes` are those of their text in UTF-8."""
        self._begun().add_stored(stored, starts)
        self._text_bytes += text_bytes

    def mark(self) -> None:
        """A document begins that may have to be withdrawn."""
        self._mark = (self._begun().mark(), self._text_bytes)

    def withdraw(self) -> None:
        """Forget what came since `mark`."""
        assert self._mark is not None
        mark, self._text_bytes = self._mark
        self._begun().rollback(mark)

    def close(self) -> Shard | None:
        """The shard, in place; None if the split has no document."""
        writer = self._writer
        if writer is None or writer.documents == 0:
            return None
        writer.close()
        return Shard(
            split=self._split,
            source=self._form.source,
            path=writer.name,
            tokens=writer.tokens,
            documents=writer.documents,
            bytes=writer.bytes,
            sha256=writer.sha256,
            unit=self._form.unit,
            blocks=tuple(writer.blocks),
            text_bytes=self._text_bytes,
        )

    def _begun(self) -> ShardWriter:
        if self._writer is None:
            form = self._form
            name = shard_name(self._split, form.number)
            writer = ShardWriter(
                self._folder, name, dtype=form.dtype, eot_id=form.eot_id, block_tokens=form.block_tokens
            )
            self._writer = self._stack.enter_context(writer)
        return self._writer


def shard_name(split: str, number: int) -> str:
    """train-00000.tar and on."""
    return f"{split}-{number:05d}.tar"


def token_dtype(vocab_size: int) -> str:
    """The smallest type that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"
