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

from data_shards.blocks import BLOCK_TYPE, Block, Blocks, BlockStore, block_rows, rows_to_arrow
from data_shards.errors import DataError

FORMAT_VERSION = 3
SPLITS = ("train", "val")

# Of a shard's row, what is not its blocks.
_FACTS = pa.schema(
    [
        ("split", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("tokens", pa.int64()),
        ("documents", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("unit", pa.string()),
        ("text_bytes", pa.int64()),
    ]
)
_SCHEMA = _FACTS.append(pa.field("blocks", pa.list_(BLOCK_TYPE)))
# Shards whose blocks are decoded together: enough to be worth a column, few enough to be decoded for one of them.
_GROUP_ROWS = 256


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
    blocks: Sequence[Block]
    text_bytes: int = 0  # of the documents in UTF-8, without end marks

    def to_dict(self) -> dict[str, Any]:
        # dataclasses.asdict copies each of millions of blocks and takes ten times as long.
        return {**vars(self), "blocks": [vars(block) for block in self.blocks]}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        return cls(**{**row, "blocks": tuple(Block(**block) for block in row["blocks"])})


@dataclass(frozen=True)
class ExampleLayout:
    """What makes a dataset one of examples: its ids are uint32 with loss bits, and its rows of one length.

    Row i of a shard is tokens [i * seq_len, (i + 1) * seq_len), and holds whole examples. An example ends with its
    last token that counts, or an end mark behind that; of a classification that token is a class's number.
    """

    task: str  # completion, chat or class
    seq_len: int
    classes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"task": self.task, "seq_len": self.seq_len, "classes": list(self.classes), "loss_bit": True}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Self:
        return cls(facts["task"], facts["seq_len"], tuple(facts["classes"]))


def manifest_order(shards: Iterable[Shard]) -> tuple[Shard, ...]:
    """Shards by split and number (train-99999 before train-100000)."""
    return tuple(sorted(shards, key=lambda shard: (shard.split, len(shard.path), shard.path)))


def dataset_fingerprint(
    tokenizer_fingerprint: str, shards: Sequence[Shard], examples: ExampleLayout | None = None
) -> str:
    """SHA-256, in hex, of format version, tokenizer and shard rows; for the blocks the shards' own SHA-256 stand."""
    digest = hashlib.sha256(f"headrace dataset {FORMAT_VERSION}\n{tokenizer_fingerprint}\n".encode())
    if examples is not None:
        digest.update(json.dumps(examples.to_dict(), sort_keys=True).encode() + b"\n")
    for shard in manifest_order(shards):
        digest.update(json.dumps([getattr(shard, name) for name in _FACTS.names]).encode() + b"\n")
    return digest.hexdigest()


def manifest_bytes(shards: Sequence[Shard]) -> bytes:
    """The shards as Parquet; the same shards always give the same bytes."""
    buffer = io.BytesIO()
    numbers = [f"blocks.list.element.{field.name}" for field in BLOCK_TYPE if field.type == pa.int64()]
    with pq.ParquetWriter(
        buffer,
        _SCHEMA,
        compression="zstd",
        use_dictionary=["split", "source", "unit"],
        column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
        write_statistics=False,
    ) as writer:
        for start in range(0, len(shards), _GROUP_ROWS):
            writer.write_table(_table(shards[start : start + _GROUP_ROWS]))
    return buffer.getvalue()


def _table(shards: Sequence[Shard]) -> pa.Table:
    facts = [pa.array([getattr(shard, field.name) for shard in shards], field.type) for field in _FACTS]
    return pa.table([*facts, rows_to_arrow([block_rows(shard.blocks) for shard in shards])], schema=_SCHEMA)


def parse_manifest(data: bytes, path: Path) -> tuple[Shard, ...]:
    """Inverse of `manifest_bytes`; `path` is for the DataError. Blocks are decoded when they are looked at."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        if not file.schema_arrow.equals(_SCHEMA):
            raise pa.ArrowInvalid("its columns are others")
        facts = file.read(columns=_FACTS.names, use_threads=False)
        store = BlockStore(file)
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a manifest of this format ({error}): run prepare again") from error
    blocks = (Blocks(store, row) for row in range(facts.num_rows))
    *columns, text_bytes = (column.to_pylist() for column in facts.columns)
    for name in facts.column("path").to_pylist():
        if not _stays_inside(name):
            raise DataError(
                f"{path}: a shard's path must lie in the dataset's folder, found {name!r}: get the dataset from a "
                "source that you trust, or prepare it again"
            )
    return tuple(Shard(*row) for row in zip(*columns, blocks, text_bytes, strict=True))


def _stays_inside(name: str) -> bool:
    """Whether a file of that name lies under the folder that it is joined to."""
    return bool(name) and not name.startswith("/") and ".." not in name.split("/")


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
