"""What one worker does with one unit: read, tokenise, write its shards, leave a record."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_shards.dataset import TOKENIZER_FILE, UnitNote
from data_shards.errors import DataError
from data_shards.files import write_atomically
from data_shards.manifest import SPLITS, Shard
from data_shards.rejects import Rejects
from data_shards.shard_writer import ShardWriter
from data_shards.tokenizer import TextTokenizer, load_tokenizer
from data_shards.units import Unit

RECORDS_FOLDER = ".units"
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class UnitResult:
    """The shards of a finished unit, all in place, and what was left out of them."""

    key: str
    shards: tuple[Shard, ...]
    note: UnitNote

    def to_dict(self) -> dict[str, Any]:
        """Plain values whose types are the same for all results, as the rows of a table must be."""
        return {
            "key": self.key,
            "shards": [shard.to_dict() for shard in self.shards],
            "empty": self.note.empty,
            "skipped": [{"reason": reason, "records": number} for reason, number in self.note.skipped.items()],
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        skipped = {item["reason"]: item["records"] for item in row["skipped"]}
        shards = tuple(Shard.from_dict(shard) for shard in row["shards"])
        return cls(key=row["key"], shards=shards, note=UnitNote(row["empty"], skipped))


@dataclass(frozen=True)
class UnitWorker:
    """Turns units into shards in `dir`. Picklable; each process loads the tokenizer once, when it first needs it."""

    dir: str
    tokenizer_fingerprint: str
    block_tokens: int
    on_bad_record: str

    def __call__(self, unit: Unit) -> UnitResult:
        """Write the unit's shards and its record. Raises DataError for what is wrong with its files."""
        dir = Path(self.dir)
        tokenizer = _cached_tokenizer(dir / TOKENIZER_FILE, self.tokenizer_fingerprint)
        rejects = Rejects(self.on_bad_record)
        with ExitStack() as stack:
            outputs = {split: _Output(self, tokenizer, unit, split, stack) for split in SPLITS}
            for texts in _batches(unit.documents(rejects)):
                splits = [unit.rule.split_of(text) for text in texts]
                ids = tokenizer.encode(texts)
                for split, output in outputs.items():
                    chosen = [i for i, name in enumerate(splits) if name == split]
                    output.add([texts[i] for i in chosen], [ids[i] for i in chosen])
            shards = [output.close() for output in outputs.values()]
        note = UnitNote(rejects.empty, dict(sorted(rejects.skipped.items())))
        result = UnitResult(unit.key, tuple(shard for shard in shards if shard is not None), note)
        write_record(dir, result)
        return result


class _Output:
    """The shard of one split; its file begins with its first document."""

    def __init__(self, worker: UnitWorker, tokenizer: TextTokenizer, unit: Unit, split: str, stack: ExitStack) -> None:
        self._worker = worker
        self._tokenizer = tokenizer
        self._unit = unit
        self._split = split
        self._stack = stack
        self._writer: ShardWriter | None = None
        self._text_bytes = 0

    def add(self, texts: list[str], ids: list[np.ndarray]) -> None:
        if not texts:
            return
        if self._writer is None:
            self._writer = self._stack.enter_context(self._open())
        self._writer.add(ids)
        self._text_bytes += sum(len(text.encode()) for text in texts)

    def close(self) -> Shard | None:
        if self._writer is None:
            return None
        writer = self._writer
        writer.close()
        return Shard(
            split=self._split,
            source=self._unit.source,
            path=writer.path.name,
            tokens=writer.tokens,
            documents=writer.documents,
            bytes=writer.bytes,
            sha256=writer.sha256,
            unit=self._unit.key,
            blocks=tuple(writer.blocks),
            text_bytes=self._text_bytes,
        )

    def _open(self) -> ShardWriter:
        return ShardWriter(
            Path(self._worker.dir) / shard_name(self._split, self._unit.shard),
            dtype=token_dtype(self._tokenizer.vocab_size),
            eot_id=self._tokenizer.eot_id,
            block_tokens=self._worker.block_tokens,
        )


def shard_name(split: str, number: int) -> str:
    """train-00000.tar and on."""
    return f"{split}-{number:05d}.tar"


def token_dtype(vocab_size: int) -> str:
    """The smallest type that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def write_record(dir: Path, result: UnitResult) -> None:
    """Note that a unit is done, so that a prepare which is killed need not do it again."""
    folder = dir / RECORDS_FOLDER
    folder.mkdir(exist_ok=True)
    write_atomically(folder / f"{result.key}.json", json.dumps(result.to_dict(), sort_keys=True).encode())


def read_record(dir: Path, key: str) -> UnitResult | None:
    """The record of a finished unit, if there is one."""
    path = dir / RECORDS_FOLDER / f"{key}.json"
    return UnitResult.from_dict(json.loads(path.read_bytes())) if path.is_file() else None


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """Lists of about a million characters, or of one longer text."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


@lru_cache(maxsize=1)
def _cached_tokenizer(path: Path, fingerprint: str) -> TextTokenizer:
    tokenizer = load_tokenizer(path)
    if tokenizer.fingerprint != fingerprint:
        raise DataError(f"{path}: changed since prepare began: run prepare again, one at a time")
    return tokenizer
