"""Units of work, cut so that they depend on the corpus alone: not on machines, paths or times.

Whole small files of a source are grouped up to `unit_bytes`; a big plain file is cut on borders of documents, a Parquet
file between row groups; a compressed file, or one that is a single document, is never cut. A piece holds whole
documents, so its own bytes are all that its tokens depend on, and text added at a file's end leaves the units before as
they are.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from data_shards.documents import open_parquet, read_documents
from data_shards.errors import DataError
from data_shards.manifest import FORMAT_VERSION
from data_shards.rejects import Rejects
from data_shards.settings import DataSettings, SourceSettings
from data_shards.sources import CHUNK_BYTES, SourceFile, expand

# The text in a compressed file is taken to be this many times its size, for grouping alone.
_EXPANSION = 4
_SALT = b"headrace validation split 1\n"


@dataclass(frozen=True)
class SplitRule:
    """Where a document goes: all to one split, or `val_fraction` of them, chosen by their hash, to validation."""

    kind: Literal["train", "val", "hash"]
    val_fraction: float = 0.0

    def split_of(self, text: str) -> str:
        """ "train" or "val"; by hash, the same text falls on the same side in whatever file it is."""
        if self.kind != "hash":
            return self.kind
        digest = hashlib.sha256(_SALT + text.encode()).digest()
        return "val" if int.from_bytes(digest[:8]) < self.val_fraction * 2.0**64 else "train"


@dataclass(frozen=True)
class Piece:
    """Bytes [start, end) of a file, or its row groups [start, end) if it is Parquet."""

    file: SourceFile
    start: int
    end: int
    sha256: str  # of those bytes; of the whole file if it is Parquet
    text_bytes: int  # about as many

    def identity(self) -> list[Any]:
        """What the piece's documents depend on, without path and place."""
        groups = [self.start, self.end] if self.file.format == "parquet" else []
        return [self.file.format, self.file.compression, self.file.field, self.file.document, self.sha256, groups]


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

    def documents(self, rejects: Rejects) -> Iterator[str]:
        """The unit's documents, in order."""
        for piece in self.pieces:
            yield from read_documents(piece.file, piece.start, piece.end, rejects)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        pieces = tuple(Piece(**{**piece, "file": SourceFile(**piece["file"])}) for piece in row["pieces"])
        return cls(**{**row, "rule": SplitRule(**row["rule"]), "pieces": pieces})


PieceCutter = Callable[[SourceFile, int], tuple[Piece, ...]]


def plan_units(settings: DataSettings, cut: PieceCutter) -> tuple[Unit, ...]:
    """All units of the corpus, in order; keys name their text alone until `with_keys`.

    `cut(file, unit_bytes)` is `cut_file` or one that remembers what it read. Raises DataError for files that are
    missing, unreadable, or on both sides of the split.
    """
    held_out = settings.val_sources or ()
    rule = SplitRule("train") if held_out else SplitRule("hash", settings.val_fraction)
    sides = [(source, rule) for source in settings.sources] + [(source, SplitRule("val")) for source in held_out]
    units: list[Unit] = []
    owners: dict[str, SourceSettings] = {}
    for source, side in sides:
        files = expand(source, "data.val_sources" if side.kind == "val" else "data.sources")
        if held_out:
            _refuse_overlap(files, source, owners, held_out)
        groups = _group((cut(file, settings.unit_bytes) for file in files), settings.unit_bytes)
        units += [Unit(_text_key(group), source.label, side, group) for group in groups]
    return tuple(units)


def with_keys(units: Sequence[Unit], tokenizer_fingerprint: str, block_tokens: int) -> tuple[Unit, ...]:
    """The units with keys that stand for all their shards depend on.

    Equal text twice in a source gives different keys, in order.
    """
    seen: Counter[str] = Counter()
    keyed = []
    for unit in units:
        parts = [FORMAT_VERSION, tokenizer_fingerprint, asdict(unit.rule), block_tokens, unit.source, unit.key]
        key = _sha256(json.dumps(parts))
        keyed.append(replace(unit, key=_sha256(f"{key} {seen[key]}")))
        seen[key] += 1
    return tuple(keyed)


def corpus_fingerprint(units: Iterable[Unit]) -> str:
    """SHA-256, in hex, of the text of all units (as `plan_units` gives them) and the sources' names."""
    return _sha256(json.dumps([[unit.source, asdict(unit.rule), unit.key] for unit in units]))


def cut_file(file: SourceFile, unit_bytes: int) -> tuple[Piece, ...]:
    """Cut a file into pieces of whole documents of at most `unit_bytes` each, where documents are no longer than that.

    Reads the whole file for its hashes. Raises DataError where it cannot be read.
    """
    if file.format == "parquet":
        return _cut_parquet(file, unit_bytes)
    try:
        size = Path(file.path).stat().st_size
        with Path(file.path).open("rb") as stream:
            ranges = list(_ranges(stream, size, _separators(file), unit_bytes))
            hashes = [_hash_range(stream, start, end) for start, end in ranges]
    except OSError as error:
        raise DataError(f"{file.path}: cannot be read ({error.strerror}): correct or leave out the file") from error
    factor = _EXPANSION if file.compression else 1
    return tuple(
        Piece(file, start, end, digest, (end - start) * factor)
        for (start, end), digest in zip(ranges, hashes, strict=True)
    )


def _separators(file: SourceFile) -> tuple[bytes, ...]:
    """What ends a document wherever it stands; nothing, if the file may not be cut."""
    if file.compression or file.document == "file":
        return ()
    return (b"\n\n", b"\n\r\n") if file.document == "blank_line" else (b"\n",)


def _ranges(stream: BinaryIO, size: int, separators: tuple[bytes, ...], unit_bytes: int) -> Iterator[tuple[int, int]]:
    start = 0
    while separators and size - start > unit_bytes:
        end = _last_border(stream, start, start + unit_bytes, separators)
        end = end or _next_border(stream, start, start + unit_bytes, separators) or size
        yield start, end
        start = end
    if start < size or size == 0:
        yield start, size


def _last_border(stream: BinaryIO, start: int, limit: int, separators: tuple[bytes, ...]) -> int | None:
    """The last place in (start, limit] right after a separator that lies wholly within [start, limit)."""
    high = limit
    overlap = max(map(len, separators)) - 1
    while high > start:
        low = max(start, high - CHUNK_BYTES)
        stream.seek(low)
        block = stream.read(min(high + overlap, limit) - low)
        found = [block.rfind(separator) + len(separator) for separator in separators if separator in block]
        if found:
            return low + max(found)
        high = low
    return None


def _next_border(stream: BinaryIO, start: int, limit: int, separators: tuple[bytes, ...]) -> int | None:
    """The first place after `limit` right after a separator that starts at or after `start`."""
    overlap = max(map(len, separators)) - 1
    low = max(start, limit - overlap)
    while True:
        stream.seek(low)
        block = stream.read(CHUNK_BYTES + overlap)
        found = [block.find(separator) + len(separator) for separator in separators if separator in block]
        if found:
            return low + min(found)
        if len(block) < CHUNK_BYTES + overlap:
            return None
        low += CHUNK_BYTES


def _hash_range(stream: BinaryIO, start: int, end: int) -> str:
    digest = hashlib.sha256()
    stream.seek(start)
    left = end - start
    while left and (chunk := stream.read(min(CHUNK_BYTES, left))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def _cut_parquet(file: SourceFile, unit_bytes: int) -> tuple[Piece, ...]:
    with open_parquet(file) as parquet:
        sizes = [_column_bytes(parquet.metadata.row_group(i), file.field) for i in range(parquet.num_row_groups)]
    with Path(file.path).open("rb") as stream:
        digest = _hash_range(stream, 0, Path(file.path).stat().st_size)
    pieces = []
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > unit_bytes:
            pieces.append(Piece(file, start, index, digest, total))
            start, total = index, 0
        total += size
    return (*pieces, Piece(file, start, len(sizes), digest, total))


def _column_bytes(row_group: Any, field: str) -> int:
    columns = (row_group.column(i) for i in range(row_group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == field)


def _group(files: Iterable[tuple[Piece, ...]], unit_bytes: int) -> list[tuple[Piece, ...]]:
    """Join the files of one piece, in order, while they fit; pieces of a file that was cut stand alone."""
    groups: list[tuple[Piece, ...]] = []
    small: list[Piece] = []
    total = 0
    for pieces in files:
        size = sum(piece.text_bytes for piece in pieces)
        if small and (len(pieces) > 1 or total + size > unit_bytes):
            groups.append(tuple(small))
            small, total = [], 0
        if len(pieces) > 1:
            groups += [(piece,) for piece in pieces]
        else:
            small += pieces
            total += size
    return [*groups, tuple(small)] if small else groups


def _refuse_overlap(
    files: Iterable[SourceFile], source: SourceSettings, owners: dict[str, SourceSettings], held_out: Sequence[Any]
) -> None:
    """A file that trains and validates would make the validation loss a lie."""
    for file in files:
        place = str(Path(file.path).resolve())
        owner = owners.setdefault(place, source)
        if (owner in held_out) != (source in held_out):
            raise DataError(
                f"data.val_sources: {file.path} belongs to data.sources ({owner.path}) too: leave it out of one"
            )


def _text_key(pieces: Iterable[Piece]) -> str:
    return _sha256(json.dumps([piece.identity() for piece in pieces]))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
