"""Writes one shard: a tar of token blocks whose bytes depend on its documents alone."""

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from data_shards.files import sync_folder, temporary_path
from data_shards.manifest import Block

_TAR_END = bytes(2 * tarfile.BLOCKSIZE)


class ShardWriter:
    """Collects documents into blocks of `block_tokens` and writes them as KEY.tokens.npy and KEY.docs.npy.

    The tar (ustar; no times, owners or names in it) appears under `path` when `close` has synced it, or not at all.
    """

    def __init__(self, path: Path, *, dtype: str, eot_id: int, block_tokens: int) -> None:
        self.path = path
        self.documents = 0
        self.tokens = 0
        self.bytes = 0
        self.blocks: list[Block] = []
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._end = np.array([eot_id], dtype=self._dtype)
        self._block_tokens = block_tokens
        self._pending: list[np.ndarray] = []  # tokens not yet written
        self._pending_tokens = 0
        self._starts: list[np.ndarray] = []  # of documents, from the shard's first token, int64
        self._digest = hashlib.sha256()
        self._temporary = temporary_path(path)
        self._file = self._temporary.open("wb")

    @property
    def sha256(self) -> str:
        """Of all that has been written, in hex."""
        return self._digest.hexdigest()

    def add(self, documents: Sequence[np.ndarray]) -> None:
        """Append documents, each a one-dimensional array of token ids without end mark."""
        if not documents:
            return
        lengths = np.array([len(document) + 1 for document in documents])
        self._starts.append(self.tokens + np.cumsum(lengths) - lengths)
        parts = [part for document in documents for part in (document.astype(self._dtype), self._end)]
        self._pending += parts
        self._pending_tokens += int(lengths.sum())
        self.tokens += int(lengths.sum())
        self.documents += len(documents)
        if self._pending_tokens >= self._block_tokens:
            self._write_blocks(last=False)

    def close(self) -> None:
        """Write what is left, sync, and give the file its name."""
        self._write_blocks(last=True)
        self._write(_TAR_END)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)
        sync_folder(self.path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write_blocks(self, *, last: bool) -> None:
        tokens = np.concatenate(self._pending) if self._pending else np.empty(0, self._dtype)
        starts = np.concatenate(self._starts) if self._starts else np.empty(0, np.int64)
        first = self.tokens - len(tokens)  # place of tokens[0] in the shard
        whole = len(tokens) if last else len(tokens) - len(tokens) % self._block_tokens
        for at in range(0, whole, self._block_tokens):
            block = tokens[at : min(at + self._block_tokens, whole)]
            inside = starts[np.searchsorted(starts, first + at) : np.searchsorted(starts, first + at + len(block))]
            self._write_block(block, (inside - first - at).astype("<u4"))
        self._pending = [tokens[whole:]]
        self._pending_tokens = len(tokens) - whole
        self._starts = [starts[np.searchsorted(starts, first + whole) :]]

    def _write_block(self, tokens: np.ndarray, docs: np.ndarray) -> None:
        key = f"{len(self.blocks):06d}"
        token_offset, token_crc32 = self._write_member(f"{key}.tokens.npy", tokens)
        docs_offset, docs_crc32 = self._write_member(f"{key}.docs.npy", docs)
        self.blocks.append(Block(key, token_offset, len(tokens), token_crc32, docs_offset, len(docs), docs_crc32))

    def _write_member(self, name: str, array: np.ndarray) -> tuple[int, int]:
        """Returns the byte offset of the first element, and the CRC of the elements."""
        header = npy_header(array)
        data = array.tobytes()
        info = tarfile.TarInfo(name)
        info.size = len(header) + len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        self._write(header)
        offset = self.bytes
        self._write(data)
        self._write(bytes(-info.size % tarfile.BLOCKSIZE))
        return offset, zlib.crc32(data)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)


def npy_header(array: np.ndarray) -> bytes:
    """The array's header in NumPy's .npy format, version 1.0."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(array))
    return buffer.getvalue()
