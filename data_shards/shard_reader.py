"""Reads token slices of shards through memory maps, and proves each block when it is first touched."""

import mmap
import resource
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from data_shards.blocks import block_key, block_rows
from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.loss_bit import counted_tokens, token_ids
from data_shards.manifest import SPLITS, Shard
from data_shards.permutation import Int64Array
from data_shards.storage import LocalFolder

# One rank of a run with the default 192 streams over windows of 8 shards reads 1536 shards at a time.
_MOST_OPEN = 2048


def check_sizes(dataset: Dataset, splits: Sequence[str] = SPLITS) -> None:
    """Look at the size of every file of the splits; DataError names the first that is missing or of another size."""
    for message in wrong_sizes(dataset, splits):
        raise DataError(message)


def wrong_sizes(dataset: Dataset, splits: Sequence[str] = SPLITS) -> Iterator[str]:
    """A sentence for each file of the splits that is missing or of another size."""
    folder = dataset.folder
    # Of a remote folder one listing, where a question for each file would take minutes.
    sizes = None if isinstance(folder, LocalFolder) else folder.sizes()
    for shard in chain.from_iterable(map(dataset.split, splits)):
        if sizes is None:
            message = _wrong_file(dataset.shard_path(shard), shard)
        else:
            message = _wrong_size(f"{folder.address}/{shard.path}", sizes.get(shard.path), shard)
        if message is not None:
            yield message


def _wrong_file(path: Path, shard: Shard) -> str | None:
    try:
        return _wrong_size(path, path.stat().st_size, shard)
    except OSError as error:
        return _wrong_size(path, None, shard, str(error.strerror))


def _wrong_size(place: Path | str, found: int | None, shard: Shard, why_not: str = "no such file") -> str | None:
    if found is None:
        return (
            f"Shard {place} cannot be read ({why_not}); the manifest says {shard.bytes} bytes: "
            "bring the file back, or prepare the dataset again."
        )
    if found == shard.bytes:
        return None
    changed = "was cut" if found < shard.bytes else "has grown"
    return (
        f"Shard {place} has {found} bytes and the manifest says {shard.bytes}, so it {changed} since it was made: "
        "delete the file and prepare the dataset again."
    )


class _OpenShard:
    """A mapped file, and views of those of its blocks that were proved."""

    def __init__(self, shard: Shard, path: Path) -> None:
        """Raises: DataError if the file is not as the manifest says."""
        if message := _wrong_file(path, shard):
            raise DataError(message)
        try:
            with path.open("rb") as file:
                self.bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise DataError(f"Shard {path} cannot be mapped ({error.strerror}).") from error
        self.path = path
        self.rows = block_rows(shard.blocks).copy()  # without the other shards' that they were decoded with
        # All blocks but the last have as many tokens as the first.
        self.block_tokens = int(self.rows["tokens"][0])
        self.tokens: list[memoryview | None] = [None] * len(self.rows)
        self.docs: dict[int, NDArray[np.uint32]] = {}


class ShardReader:
    """Token slices of a list of shards; of the files it maps at most as many as the process may well have open."""

    def __init__(self, dataset: Dataset, shards: Sequence[Shard]) -> None:
        self._path_of, self._shards = dataset.shard_path, shards
        self._has_loss_bit = dataset.has_loss_bit
        self._dtype = np.dtype(dataset.dtype).newbyteorder("<")
        self._item: Literal["H", "I"] = "H" if self._dtype.itemsize == 2 else "I"
        self._open: dict[int, _OpenShard] = {}
        # A map holds a file descriptor, and the readers of training and of an evaluation have theirs at the same time.
        self._max_open = min(_MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        # Of each shard, for longer than its map: bit 2 * block for its tokens, bit 2 * block + 1 for its documents.
        self._proved: dict[int, int] = {}

    def read_rows(self, shards: Int64Array, firsts: Int64Array, shape: tuple[int, int]) -> Int64Array:
        """Rows of n tokens, int64 [R, n] with (R, n) = shape: tokens [first, first + n) of each shard, then zeros.

        They are as stored, and so have loss bits in a dataset of examples: `read_counted_rows` takes them off.

        Args: shards and firsts int64 [at most R].
        Raises: DataError if a block's bytes do not have the hash of the manifest, or the file is gone or cut.
        """
        rows, n = shape
        parts: list[bytes | memoryview] = []
        for shard, first in zip(shards.tolist(), firsts.tolist(), strict=True):
            opened = self._open.get(shard) or self._map(shard)
            block, at = divmod(first, opened.block_tokens)
            tokens = opened.tokens[block]
            if tokens is None or at + n > opened.block_tokens:
                parts += self._slices(shard, opened, block, at, n)
            else:
                parts.append(tokens[at : at + n])
        parts.append(bytes((rows - len(shards)) * n * self._dtype.itemsize))
        # One join and one conversion for all rows: half the time of a copy for each.
        return np.frombuffer(b"".join(parts), self._dtype).astype(np.int64).reshape(shape)

    def read_counted_rows(
        self, shards: Int64Array, firsts: Int64Array, shape: tuple[int, int]
    ) -> tuple[Int64Array, NDArray[np.bool_] | None]:
        """The ids of `read_rows`, and whether the loss counts each token, bool [R, n]; None where all count."""
        stored = self.read_rows(shards, firsts, shape)
        return (token_ids(stored), counted_tokens(stored)) if self._has_loss_bit else (stored, None)

    def prove(self, shard: int, first: int, n: int, *, with_documents: bool) -> None:
        """Look at the blocks that the tokens [first, first + n) of a shard lie in, but for those that were proved.

        Raises: as `read_rows`.
        """
        opened = self._open.get(shard) or self._map(shard)
        for block in range(first // opened.block_tokens, -(-(first + n) // opened.block_tokens)):
            self._tokens(shard, opened, block)
            if with_documents:
                self._docs(shard, opened, block)

    def is_open(self, shard: int) -> bool:
        """Whether the shard's file is mapped."""
        return shard in self._open

    def document_starts(self, shard: int, first: int, n: int) -> Int64Array:
        """Where documents begin in the tokens [first, first + n) of shard number `shard`, first itself left out.

        Returns: int64 [documents], rising, counted from `first`: each 0 < place < n.
        Raises: as `read_rows`.
        """
        opened = self._open.get(shard) or self._map(shard)
        size = opened.block_tokens
        found = []
        for block in range(first // size, -(-(first + n) // size)):
            docs, begin = self._docs(shard, opened, block), first - block * size
            low, high = docs.searchsorted((max(begin + 1, 0), begin + n))
            found.append(docs[low:high].astype(np.int64) - begin)
        return np.concatenate(found)

    def starts_of_rows(self, shards: Int64Array, firsts: Int64Array, shape: tuple[int, int]) -> tuple[Int64Array, ...]:
        """`document_starts` of R rows of n tokens, (R, n) = shape; rows after the last pair have none.

        Raises: as `read_rows`.
        """
        rows, n = shape
        starts = [self.document_starts(*place, n) for place in zip(shards.tolist(), firsts.tolist(), strict=True)]
        return (*starts, *[np.empty(0, np.int64)] * (rows - len(starts)))

    def _map(self, number: int) -> _OpenShard:
        shard = self._shards[number]
        opened = self._open[number] = _OpenShard(shard, self._path_of(shard))
        if len(self._open) > self._max_open:
            del self._open[next(iter(self._open))]
        return opened

    def _slices(self, number: int, opened: _OpenShard, block: int, at: int, n: int) -> Iterator[memoryview]:
        """The n tokens from place `at` of a block on, over block borders."""
        while n > 0:
            part = self._tokens(number, opened, block)[at : at + n]
            yield part
            block, at, n = block + 1, 0, n - len(part)

    def _tokens(self, number: int, opened: _OpenShard, index: int) -> memoryview:
        """The tokens of a block, as stored."""
        tokens = opened.tokens[index]
        if tokens is None:
            offset, count = int(opened.rows["token_offset"][index]), int(opened.rows["tokens"][index])
            raw = opened.bytes[offset : offset + count * self._dtype.itemsize]
            self._prove(number, opened, index, "token", raw)
            tokens = opened.tokens[index] = raw.cast(self._item)
        return tokens

    def _docs(self, number: int, opened: _OpenShard, index: int) -> NDArray[np.uint32]:
        """Starts of the documents that begin in a block, from its first token, uint32 [docs]."""
        docs = opened.docs.get(index)
        if docs is None:
            offset, count = int(opened.rows["docs_offset"][index]), int(opened.rows["docs"][index])
            raw = opened.bytes[offset : offset + 4 * count]
            self._prove(number, opened, index, "docs", raw)
            docs = opened.docs[index] = np.frombuffer(raw, "<u4")
        return docs

    def _prove(
        self, number: int, opened: _OpenShard, index: int, member: Literal["token", "docs"], raw: memoryview
    ) -> None:
        """Look at a member's bytes once, however often the file is mapped."""
        bit = 1 << (2 * index + (member == "docs"))
        proved = self._proved.get(number, 0)
        if proved & bit:
            return
        found, expected = xxh3_64_intdigest(raw), int(opened.rows[f"{member}_xxh3"][index])
        if found != expected:
            what = "document starts" if member == "docs" else "tokens"
            raise DataError(
                f"Block {block_key(index)} of shard {opened.path} is damaged: its {what} have the hash {found:016x} "
                f"and the manifest says {expected:016x}: delete the file and prepare the dataset again."
            )
        self._proved[number] = proved | bit
