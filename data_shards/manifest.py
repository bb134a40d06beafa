"""The manifest: a row per shard, and what the rows are worth together."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from data_shards.errors import DataError

FORMAT_VERSION = 2
SPLITS = ("train", "val")

_BLOCK = pa.struct(
    [
        ("key", pa.string()),
        ("token_offset", pa.int64()),
        ("tokens", pa.int64()),
        ("token_crc32", pa.uint32()),
        ("docs_offset", pa.int64()),
        ("docs", pa.int64()),
        ("docs_crc32", pa.uint32()),
    ]
)
_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("tokens", pa.int64()),
        ("documents", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("unit", pa.string()),
        ("blocks", pa.list_(_BLOCK)),
        ("text_bytes", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Block:
    """One pair of members of a shard: KEY.tokens.npy and KEY.docs.npy.

    Offsets are bytes from the start of the tar to the first element, after the npy header. docs.npy holds, as uint32
    relative to the block's first token, the starts of the documents that begin in the block. CRCs are zlib.crc32 of
    the elements' bytes.
    """

    key: str
    token_offset: int
    tokens: int
    token_crc32: int
    docs_offset: int
    docs: int
    docs_crc32: int


@dataclass(frozen=True)
class Shard:
    """One tar: the documents of one unit of one source that fall into one split."""

    split: str
    source: str
    path: str  # relative to the dataset's folder, with /
    tokens: int
    documents: int
    bytes: int  # of the tar
    sha256: str
    unit: str
    blocks: tuple[Block, ...]
    text_bytes: int = 0  # of the documents in UTF-8, without end marks

    def to_dict(self) -> dict[str, Any]:
        # dataclasses.asdict copies each of millions of blocks and takes ten times as long.
        return {**vars(self), "blocks": [vars(block) for block in self.blocks]}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        return cls(**{**row, "blocks": tuple(Block(**block) for block in row["blocks"])})


def manifest_order(shards: Iterable[Shard]) -> tuple[Shard, ...]:
    """Shards by split and number (train-99999 before train-100000)."""
    return tuple(sorted(shards, key=lambda shard: (shard.split, len(shard.path), shard.path)))


def dataset_fingerprint(tokenizer_fingerprint: str, shards: Sequence[Shard]) -> str:
    """SHA-256, in hex, of format version, tokenizer and shard rows."""
    digest = hashlib.sha256(f"headrace dataset {FORMAT_VERSION}\n{tokenizer_fingerprint}\n".encode())
    for shard in manifest_order(shards):
        digest.update(json.dumps(shard.to_dict(), sort_keys=True, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def manifest_bytes(shards: Sequence[Shard]) -> bytes:
    """The shards as Parquet; the same shards always give the same bytes."""
    table = pa.Table.from_pylist([shard.to_dict() for shard in shards], schema=_SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def parse_manifest(data: bytes, path: Path) -> tuple[Shard, ...]:
    """Inverse of `manifest_bytes`; `path` is for the DataError."""
    try:
        rows = pq.read_table(pa.BufferReader(data), schema=_SCHEMA, use_threads=False, pre_buffer=False).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a manifest of this format ({error}): run prepare again") from error
    return tuple(Shard.from_dict(row) for row in rows)


def counts(shards: Iterable[Shard]) -> dict[str, dict[str, dict[str, int]]]:
    """Shards, tokens, documents and bytes: split -> source -> name -> number."""
    table: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
    for shard in shards:
        empty = dict.fromkeys(("shards", "tokens", "documents", "bytes", "text_bytes"), 0)
        row = table[shard.split].setdefault(shard.source, empty)
        row["shards"] += 1
        for name in ("tokens", "documents", "bytes", "text_bytes"):
            row[name] += getattr(shard, name)
    return table
