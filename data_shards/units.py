"""Units of work, cut so that they depend on the corpus alone: not on machines, paths or times.

Whole small files of a source are grouped up to `unit_bytes`; a big plain file is cut on borders of documents, a Parquet
file between row groups; a compressed file, or one that is a single document, is never cut. A piece holds whole
documents, so its own bytes are all that its tokens depend on, and text added at the end of a text or JSONL file leaves
the units before as they are.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from data_shards.batches import Batch
from data_shards.documents import read_documents
from data_shards.errors import DataError
from data_shards.manifest import FORMAT_VERSION
from data_shards.pieces import Piece, PieceCutter
from data_shards.rejects import Rejects
from data_shards.settings import TOKEN_FORMATS, DataSettings, SourceSettings, is_remote, refuse_for_tokens
from data_shards.sources import FoundFile, SourceFile, find_files

# Keeps the split apart from other uses of the hash.
_SALT = 0x68656164_72616365
# Files are looked at by this many threads, of which most wait for a disk or a store.
_THREADS = 8
_FILES_AT_ONCE = 256
# To open a file costs as much as some text, and a unit is to be a short message.
_MOST_FILES = 8192
_BYTES_AT_ONCE = 8 << 20


def split_hash(data: bytes | memoryview) -> int:
    """What `SplitRule` goes by: XXH3 of 64 bits."""
    return xxh3_64_intdigest(data, _SALT)


@dataclass(frozen=True)
class SplitRule:
    """Where a document goes: all to one split, or `val_fraction` of them, chosen by their hash, to validation."""

    kind: Literal["train", "val", "hash"]
    val_fraction: float = 0.0

    def split_of(self, data: bytes) -> str:
        """ "train" or "val" of a document's UTF-8, or of its ids as little-endian uint32.

        By hash, the same document falls on the same side in whatever file it is. Of one in parts the first part
        counts.
        """
        if self.kind != "hash":
            return self.kind
        return "val" if split_hash(data) < self._limit else "train"

    def held_out(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether `split_of` by hash is "val", for many documents at once, by the `split_hash` of each."""
        return hashes < np.uint64(math.ceil(self._limit))

    def is_held_out(self, hash: int) -> bool:
        """Whether a record with this `split_hash` goes to validation."""
        return self.kind == "val" or (self.kind == "hash" and hash < self._limit)

    @cached_property
    def _limit(self) -> float:
        return self.val_fraction * 2.0**64


@dataclass(frozen=True)
class Unit:
    """Work for one worker; gives at most one shard for each split, both with the number `shard`."""

    key: str
    source: str
    rule: SplitRule
    pieces: tuple[Piece, ...]
    shard: int = -1  # given before the work starts

    @property
    def text_bytes(self) -> int:
        return sum(piece.text_bytes for piece in self.pieces)

    def documents(self, rejects: Rejects) -> Iterator[Batch]:
        """The unit's documents, in order."""
        for piece in self.pieces:
            yield from read_documents(piece.file, piece.start, piece.end, rejects)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; short, for a unit may have thousands of files, which mostly are read alike."""
        manners = list(dict.fromkeys(_manner(piece.file) for piece in self.pieces))
        numbers = {manner: number for number, manner in enumerate(manners)}  # mostly one
        return {
            "key": self.key,
            "source": self.source,
            "rule": asdict(self.rule),
            "shard": self.shard,
            "manners": [list(manner) for manner in manners],
            "pieces": [
                [piece.file.path, numbers[_manner(piece.file)], piece.start, piece.end, piece.digest, piece.text_bytes]
                for piece in self.pieces
            ],
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        pieces = tuple(Piece(SourceFile(path, *row["manners"][manner]), *rest) for path, manner, *rest in row["pieces"])
        return cls(row["key"], row["source"], SplitRule(**row["rule"]), pieces, row["shard"])


def plan_units(settings: DataSettings, cut: PieceCutter) -> tuple[Unit, ...]:
    """All units of the corpus, in order; keys name their text alone until `with_keys`.

    `cut(found, unit_bytes)` is `pieces.cut_file` or one that remembers what it read; threads call it. Raises DataError
    for files that are missing, unreadable, on both sides of the split, or of ids where `settings` ask for text.
    """
    held_out = settings.val_sources or ()
    rule = SplitRule("train") if held_out else SplitRule("hash", settings.val_fraction)
    sides = [(source, rule) for source in settings.sources] + [(source, SplitRule("val")) for source in held_out]
    units: list[Unit] = []
    owners: dict[str, SourceSettings] = {}
    for source, side in sides:
        setting = "data.val_sources" if side.kind == "val" else "data.sources"
        files = find_files(source, setting)
        _refuse_ids(files, source, settings, setting)
        if held_out:
            _refuse_overlap(files, source, owners, held_out)
        groups = _group(_cut_all(files, settings.unit_bytes, cut), settings.unit_bytes)
        units += [Unit(_text_key(group, settings), source.label, side, group) for group in groups]
    return tuple(units)


def with_keys(units: Sequence[Unit], tokenizer_fingerprint: str, block_tokens: int, form: str = "") -> tuple[Unit, ...]:
    """The units with keys that stand for all their shards depend on; `form` is how records become examples.

    Equal text twice in a source gives different keys, in order.
    """
    seen: Counter[str] = Counter()
    keyed = []
    for unit in units:
        parts = [FORMAT_VERSION, tokenizer_fingerprint, asdict(unit.rule), block_tokens, unit.source, unit.key]
        parts += [form] if form else []
        key = _sha256(json.dumps(parts))
        keyed.append(replace(unit, key=_sha256(f"{key} {seen[key]}")))
        seen[key] += 1
    return tuple(keyed)


def corpus_fingerprint(units: Iterable[Unit]) -> str:
    """SHA-256, in hex, of the text of all units (as `plan_units` gives them) and the sources' names."""
    return _sha256(json.dumps([[unit.source, asdict(unit.rule), unit.key] for unit in units]))


def _manner(file: SourceFile) -> tuple[str, ...]:
    """How a file is read: all of it but the path."""
    how = (file.format, file.compression, file.field, file.document, file.container, file.task)
    return (*how, file.reader, file.reader_digest) if file.reader else how


def _cut_all(files: Sequence[FoundFile], unit_bytes: int, cut: PieceCutter) -> Iterator[tuple[Piece, ...]]:
    """The pieces of each file, in order, made by several threads: reading and hashing leave the interpreter free."""
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="headrace-plan")
    try:
        for pieces in pool.map(lambda some: [cut(found, unit_bytes) for found in some], _handfuls(files)):
            yield from pieces
    finally:
        pool.shutdown(cancel_futures=True)


def _handfuls(files: Sequence[FoundFile]) -> Iterator[list[FoundFile]]:
    """Many small files or one large one."""
    held: list[FoundFile] = []
    size = 0
    for found in files:
        held.append(found)
        size += found.state.size
        if len(held) == _FILES_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield held
            held, size = [], 0
    if held:
        yield held


def _refuse_ids(files: Iterable[FoundFile], source: SourceSettings, settings: DataSettings, setting: str) -> None:
    if any(found.file.format in TOKEN_FORMATS for found in files):
        try:
            refuse_for_tokens(settings, source, setting.removeprefix("data."))
        except ValueError as error:
            raise DataError(f"data.{error}") from error


def _group(files: Iterable[tuple[Piece, ...]], unit_bytes: int) -> list[tuple[Piece, ...]]:
    """Join the files of one piece, in order, while they fit; pieces of a file that was cut stand alone."""
    groups: list[tuple[Piece, ...]] = []
    small: list[Piece] = []
    total = 0
    for pieces in files:
        size = sum(piece.text_bytes for piece in pieces)
        if small and (len(pieces) > 1 or total + size > unit_bytes or len(small) == _MOST_FILES):
            groups.append(tuple(small))
            small, total = [], 0
        if len(pieces) > 1:
            groups += [(piece,) for piece in pieces]
        else:
            small += pieces
            total += size
    return [*groups, tuple(small)] if small else groups


def _refuse_overlap(
    files: Iterable[FoundFile], source: SourceSettings, owners: dict[str, SourceSettings], held_out: Sequence[Any]
) -> None:
    """A file that trains and validates would make the validation loss a lie."""
    for found in files:
        path = found.file.path
        place = path if is_remote(path) else str(Path(path).resolve())
        owner = owners.setdefault(place, source)
        if (owner in held_out) != (source in held_out):
            raise DataError(f"data.val_sources: {path} belongs to data.sources ({owner.path}) too: leave it out of one")


def _text_key(pieces: Iterable[Piece], settings: DataSettings) -> str:
    identity: list[Any] = [piece.identity() for piece in pieces]
    if settings.packing == "sentence_pairs":  # which makes other documents of the same text
        identity.append(settings.packing)
    return _sha256(json.dumps(identity))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
