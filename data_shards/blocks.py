"""The blocks of a shard, and where the manifest keeps those of all shards: in columns, read when they are asked for."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

BLOCK_TYPE = pa.struct(
    [
        ("token_offset", pa.int64()),
        ("tokens", pa.int64()),
        ("token_xxh3", pa.uint64()),
        ("docs_offset", pa.int64()),
        ("docs", pa.int64()),
        ("docs_xxh3", pa.uint64()),
    ]
)
_ROW = np.dtype([(field.name, str(field.type)) for field in BLOCK_TYPE])
_KEPT_GROUPS = 8

BlockRows = NDArray[np.void]
"""Blocks as rows of BLOCK_TYPE's fields, [blocks]: 48 bytes each, where a Block takes hundreds."""


@dataclass(frozen=True)
class Block:
    """One pair of members of a shard: KEY.tokens.npy and KEY.docs.npy.

    Offsets are bytes from the start of the tar to the first element, after the npy header. docs.npy holds, as uint32
    relative to the block's first token, the starts of the documents that begin in the block. The hashes are XXH3 (64
    bits) of the elements' bytes: of a hash of 60 GB/s a first reading takes no notice, of a CRC-32 of 4 GB/s it does.
    """

    key: str
    token_offset: int
    tokens: int
    token_xxh3: int
    docs_offset: int
    docs: int
    docs_xxh3: int


def block_key(index: int) -> str:
    """The key of a shard's block number `index`."""
    return f"{index:06d}"


def block_rows(blocks: Iterable[Block]) -> BlockRows:
    """The blocks of a shard as rows; their keys must be those of their places."""
    if isinstance(blocks, Blocks):
        return blocks.rows
    rows = []
    for index, block in enumerate(blocks):
        key, *numbers = vars(block).values()
        if key != block_key(index):
            raise ValueError(f"block {index} of a shard has the key {key}, not {block_key(index)}")
        rows.append(tuple(numbers))
    return np.array(rows, dtype=_ROW)


def rows_to_arrow(of_shards: Sequence[BlockRows]) -> pa.ListArray:
    """The rows of each of some shards, as a column."""
    rows = np.concatenate(of_shards)
    values = pa.StructArray.from_arrays([rows[name].copy() for name in _ROW.names or ()], fields=list(BLOCK_TYPE))
    return pa.ListArray.from_arrays(np.cumsum([0, *map(len, of_shards)]).astype(np.int32), values)


class BlockStore:
    """The column `blocks` of a manifest: decoded by the row group, of which the last used are kept."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self._first_row = np.cumsum([0, *counts])
        self._groups: OrderedDict[int, tuple[NDArray[np.int32], BlockRows]] = OrderedDict()

    def rows(self, row: int) -> BlockRows:
        """The blocks of the shard in row number `row`."""
        group = int(self._first_row.searchsorted(row, side="right")) - 1
        ends, rows = self._group(group)
        index = row - int(self._first_row[group])
        return rows[ends[index] : ends[index + 1]]

    def _group(self, group: int) -> tuple[NDArray[np.int32], BlockRows]:
        if group not in self._groups:
            table = self._file.read_row_group(group, columns=["blocks"], use_threads=False)
            self._groups[group] = _decoded(table.column("blocks").combine_chunks())
            if len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return self._groups[group]


def _decoded(column: pa.ListArray) -> tuple[NDArray[np.int32], BlockRows]:
    """Where each shard's rows end (int32 [shards + 1], from 0), and the rows."""
    values = column.flatten()
    rows = np.empty(len(values), dtype=_ROW)
    for name in _ROW.names or ():
        rows[name] = values.field(name).to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy()
    return offsets - offsets[0], rows


class Blocks(Sequence[Block]):
    """The blocks of one shard of a manifest; nothing is kept of them between two looks."""

    def __init__(self, store: BlockStore, row: int) -> None:
        self._store, self._row = store, row

    @property
    def rows(self) -> BlockRows:
        return self._store.rows(self._row)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Block]:
        for index, numbers in enumerate(self.rows.tolist()):
            yield Block(block_key(index), *numbers)

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Block, ...]: ...
    def __getitem__(self, index: int | slice) -> Block | tuple[Block, ...]:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Blocks | tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))
