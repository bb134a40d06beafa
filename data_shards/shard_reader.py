"""Reads token slices of shards through memory maps, and proves each block when it is first touched."""

import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.manifest import Block, Shard
from data_shards.permutation import Int64Array

_MAX_OPEN_SHARDS = 256


def check_sizes(dataset: Dataset) -> None:
    """Look at every file of the dataset; DataError names the first that is missing or of another size."""
    for shard in dataset.shards:
        _check_size(dataset.dir / shard.path, shard)


def _check_size(path: Path, shard: Shard) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"Shard {path} cannot be read ({error.strerror}); the manifest says {shard.bytes} bytes: "
            "bring the file back, or prepare the dataset again."
        ) from error
    if found != shard.bytes:
        raise DataError(
            f"Shard {path} has {found} bytes and the manifest says {shard.bytes}: "
            "delete the file and prepare the dataset again."
        )


@dataclass(frozen=True)
class _OpenShard:
    raw: NDArray[np.uint8]  # the whole file, mapped
    starts: list[int]  # [blocks], first token of each block


class ShardReader:
    """Token slices of a list of shards; at most 256 files are mapped at a time."""

    def __init__(self, dataset: Dataset, shards: Sequence[Shard]) -> None:
        self._dir = dataset.dir
        self._shards = shards
        self._dtype = np.dtype(dataset.dtype).newbyteorder("<")
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._proved: dict[int, set[int]] = {}

    def read(self, shard: int, first: int, out: Int64Array) -> None:
        """Fill `out` (int64 [n]) with the tokens [first, first + n) of shard number `shard`, over block borders.

        Raises: DataError if a block's bytes do not have the CRC of the manifest, or the file is gone or cut.
        """
        opened = self._opened(shard)
        block = bisect_right(opened.starts, first) - 1
        filled = 0
        while filled < len(out):
            begin = first + filled - opened.starts[block]
            part = self._tokens(shard, opened, block)[begin : begin + len(out) - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            block += 1

    def _opened(self, number: int) -> _OpenShard:
        opened = self._open.get(number)
        if opened is None:
            opened = self._open[number] = self._map(self._shards[number])
            if len(self._open) > _MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return opened

    def _map(self, shard: Shard) -> _OpenShard:
        path = self._dir / shard.path
        _check_size(path, shard)
        raw = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        return _OpenShard(raw, list(accumulate((block.tokens for block in shard.blocks[:-1]), initial=0)))

    def _tokens(self, number: int, opened: _OpenShard, index: int) -> NDArray[np.unsignedinteger]:
        block = self._shards[number].blocks[index]
        raw = opened.raw[block.token_offset : block.token_offset + block.tokens * self._dtype.itemsize]
        proved = self._proved.setdefault(number, set())
        if index not in proved:
            self._prove(self._shards[number], block, raw)
            proved.add(index)
        return raw.view(self._dtype)

    def _prove(self, shard: Shard, block: Block, raw: NDArray[np.uint8]) -> None:
        found = zlib.crc32(raw.data)
        if found != block.token_crc32:
            raise DataError(
                f"Block {block.key} of shard {self._dir / shard.path} is damaged: its tokens have CRC {found:08x} and "
                f"the manifest says {block.token_crc32:08x}: delete the file and prepare the dataset again."
            )
