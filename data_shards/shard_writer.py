"""Writes one shard: a tar of token blocks whose bytes depend on its documents alone."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from data_shards.blocks import Block
from data_shards.storage import Folder

_TAR_END = bytes(2 * tarfile.BLOCKSIZE)
# Of a ustar header: the name comes first; the checksum is six octal digits, NUL and a space.
_NAME_BYTES = 100
_CHECKSUM_AT, _CHECKSUM_BYTES = 148, 8


@dataclass(frozen=True)
class Mark:
    """A place in a shard that is being written, to which the writer can go back."""

    documents: int
    tokens: int
    bytes: int
    blocks: int
    pending: NDArray[Any]  # tokens not yet written
    starts: NDArray[np.int64]
    digest: Any


class ShardWriter:
    """Collects documents into blocks of `block_tokens` and writes them as KEY.tokens.npy and KEY.docs.npy.

    The tar (ustar; no times, owners or names in it) appears in `folder` as `name` when `close` has synced it, or not
    at all.
    """

    def __init__(self, folder: Folder, name: str, *, dtype: str, eot_id: int, block_tokens: int) -> None:
        self.name = name
        self.documents = 0
        self.tokens = 0
        self.bytes = 0
        self.blocks: list[Block] = []
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._eot_id = eot_id
        self._block = np.empty(block_tokens, dtype=self._dtype)
        self._filled = 0  # tokens of the block that is being filled
        self._starts: list[NDArray[np.int64]] = []  # of documents from that block on, from the shard's first token
        self._within_document = False
        self._digest = hashlib.sha256()
        self._folder = folder
        self._staged = folder.staging(name)
        self._file = self._staged.open("wb")

    @property
    def sha256(self) -> str:
        """Of all that has been written, in hex."""
        return self._digest.hexdigest()

    def add_flat(self, ids: NDArray[np.uint32], offsets: NDArray[np.int64], *, unfinished: bool = False) -> None:
        """Append documents without end marks: document i is ids[offsets[i]:offsets[i + 1]].

        With `unfinished` the last one goes on with the first one of the next call.
        """
        number = len(offsets) - 1
        if number == 0:
            return
        begins_at = offsets[:-1] - offsets[0] + np.arange(number)  # an end mark stands after each document before
        starts = begins_at[1:] if self._within_document else begins_at
        self._starts.append(starts + self.tokens)
        self.documents += len(starts)
        self._within_document = unfinished
        self._append(self._with_end_marks(ids, offsets, number - unfinished))

    def add_stored(self, stored: NDArray[np.uint32], starts: NDArray[np.int64]) -> None:
        """Append tokens as they are, uint32 [tokens], with documents that begin at the places `starts` in them."""
        self._starts.append(starts + self.tokens)
        self.documents += len(starts)
        self._append(stored)

    def mark(self) -> Mark:
        """The present place, which must not be within a document."""
        pending = self._block[: self._filled].copy()
        return Mark(
            self.documents,
            self.tokens,
            self.bytes,
            len(self.blocks),
            pending,
            np.concatenate([*self._starts, np.empty(0, np.int64)]),
            self._digest.copy(),
        )

    def rollback(self, mark: Mark) -> None:
        """Forget what came after the mark."""
        self.documents, self.tokens, self.bytes = mark.documents, mark.tokens, mark.bytes
        del self.blocks[mark.blocks :]
        self._filled = len(mark.pending)
        self._block[: self._filled] = mark.pending
        self._starts = [mark.starts]
        self._within_document = False
        self._digest = mark.digest.copy()
        self._file.seek(mark.bytes)
        self._file.truncate()

    def close(self) -> None:
        """Write what is left, sync, and give the file its name."""
        if self._filled:
            self._write_block()
        self._write(_TAR_END)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._folder.publish(self._staged, self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._staged.unlink(missing_ok=True)

    def _with_end_marks(self, ids: NDArray[np.uint32], offsets: NDArray[np.int64], ended: int) -> NDArray[Any]:
        """The documents' tokens in the type of the shard, with end marks after the first `ended` documents."""
        ids = ids[offsets[0] : offsets[-1]]
        tokens = np.empty(len(ids) + ended, dtype=self._dtype)
        ends = offsets[1 : ended + 1] - offsets[0] + np.arange(ended)
        is_text = np.ones(len(tokens), dtype=np.bool_)
        is_text[ends] = False
        tokens[is_text] = ids
        tokens[ends] = self._eot_id
        return tokens

    def _append(self, tokens: NDArray[Any]) -> None:
        at = 0
        while at < len(tokens):
            taken = min(len(tokens) - at, len(self._block) - self._filled)
            self._block[self._filled : self._filled + taken] = tokens[at : at + taken]
            self._filled += taken
            self.tokens += taken
            at += taken
            if self._filled == len(self._block):
                self._write_block()

    def _write_block(self) -> None:
        tokens = self._block[: self._filled]
        first = self.tokens - self._filled  # place of tokens[0] in the shard
        starts = np.concatenate(self._starts)
        inside = int(np.searchsorted(starts, self.tokens))
        key = f"{len(self.blocks):06d}"
        docs = (starts[:inside] - first).astype("<u4")
        token_offset, token_xxh3 = self._write_member(f"{key}.tokens.npy", tokens)
        docs_offset, docs_xxh3 = self._write_member(f"{key}.docs.npy", docs)
        self.blocks.append(Block(key, token_offset, len(tokens), token_xxh3, docs_offset, len(docs), docs_xxh3))
        self._starts = [starts[inside:]]
        self._filled = 0

    def _write_member(self, name: str, array: NDArray[Any]) -> tuple[int, int]:
        """Returns the byte offset of the first element, and the XXH3 of the elements."""
        header = npy_header(array)
        size = len(header) + array.nbytes
        data = array.view(np.uint8).data
        self._write(_tar_header(name, size) + header)
        offset = self.bytes
        self._write(data)
        self._write(bytes(-size % tarfile.BLOCKSIZE))
        return offset, xxh3_64_intdigest(data)

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)


def npy_header(array: NDArray[Any]) -> bytes:
    """The header, in NumPy's .npy format, version 1.0, of an array of one dimension."""
    return _npy_header(array.dtype.str, len(array))


@lru_cache(maxsize=64)
def _npy_header(dtype: str, length: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": (length,)})
    return buffer.getvalue()


def _tar_header(name: str, size: int) -> bytes:
    """A ustar header; made from one of the same size, since `tarfile` takes long and there are two in each block."""
    like, checksum = _nameless_header(size)
    field = name.encode().ljust(_NAME_BYTES, b"\0")
    return b"%b%b%06o\0 %b" % (
        field,
        like[_NAME_BYTES:_CHECKSUM_AT],
        checksum + sum(field),
        like[_CHECKSUM_AT + _CHECKSUM_BYTES :],
    )


@lru_cache(maxsize=64)
def _nameless_header(size: int) -> tuple[bytes, int]:
    info = tarfile.TarInfo("")
    info.size = size
    header = info.tobuf(tarfile.USTAR_FORMAT)
    return header, int(header[_CHECKSUM_AT : _CHECKSUM_AT + _CHECKSUM_BYTES - 2], 8)
