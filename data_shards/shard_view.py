"""Reads shards through a memory map, by the offsets of the manifest."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_shards.blocks import Block
from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.loss_bit import token_ids
from data_shards.manifest import Shard


class ShardView:
    """A shard's tokens and document starts; reads only what is asked for, and checks nothing but the file's size."""

    def __init__(self, dataset: Dataset, shard: Shard) -> None:
        self.shard = shard
        self.path = dataset.shard_path(shard)
        self._has_loss_bit = dataset.has_loss_bit
        self._dtype = np.dtype(dataset.dtype).newbyteorder("<")
        size = file_size(self.path)
        if size != shard.bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            raise DataError(
                f"{self.path}: {found}, but the manifest says {shard.bytes} bytes: run headrace prepare again"
            )
        self._bytes = np.memmap(self.path, dtype=np.uint8, mode="r")

    def tokens_of(self, block: Block) -> np.ndarray:
        """The block's tokens as stored, uint16 or uint32, [block.tokens]; of examples with their loss bits."""
        return self._array(block.token_offset, block.tokens, self._dtype)

    def ids_of(self, block: Block) -> np.ndarray:
        """The block's ids without loss bits, uint16 or uint32, [block.tokens]."""
        stored = self.tokens_of(block)
        return token_ids(stored) if self._has_loss_bit else stored

    def docs_of(self, block: Block) -> np.ndarray:
        """Starts of the documents that begin in the block, from its first token, uint32, [block.docs]."""
        return self._array(block.docs_offset, block.docs, np.dtype("<u4"))

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Ids of the tokens [start, stop) of the shard, across blocks, without loss bits."""
        stored = self.stored(start, stop)
        return token_ids(stored) if self._has_loss_bit else stored

    def stored(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of the shard as stored, across blocks."""
        parts = []
        for first, block in self.placed_blocks():
            low, high = max(start - first, 0), min(stop - first, block.tokens)
            if low < high:
                parts.append(self.tokens_of(block)[low:high])
        return np.concatenate(parts) if parts else np.empty(0, self._dtype)

    def document_starts(self) -> np.ndarray:
        """Starts of all documents, from the shard's first token, int64, [shard.documents]."""
        starts = [first + self.docs_of(block).astype(np.int64) for first, block in self.placed_blocks()]
        return np.concatenate(starts) if starts else np.empty(0, np.int64)

    def placed_blocks(self) -> Iterator[tuple[int, Block]]:
        """(place of the block's first token in the shard, block)."""
        first = 0
        for block in self.shard.blocks:
            yield first, block
            first += block.tokens

    def _array(self, offset: int, length: int, dtype: np.dtype) -> np.ndarray:
        return self._bytes[offset : offset + length * dtype.itemsize].view(dtype)


def file_size(path: Path) -> int | None:
    """Size in bytes, or None if there is no such file."""
    return path.stat().st_size if path.is_file() else None
