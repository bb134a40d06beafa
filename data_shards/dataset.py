"""A dataset on disk: dataset.json and manifest.parquet, and what they say about the shards.

DIR/dataset.json and DIR/manifest.parquet are the newest version; DIR/versions/FINGERPRINT/ keeps every version for
the runs that read it. dataset.json is written last and names the hash of its manifest, so a torn pair is seen.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from data_shards.errors import DataError
from data_shards.files import sync_folder, write_atomically
from data_shards.manifest import (
    FORMAT_VERSION,
    SPLITS,
    Shard,
    counts,
    dataset_fingerprint,
    manifest_bytes,
    parse_manifest,
)

DATASET_FILE = "dataset.json"
MANIFEST_FILE = "manifest.parquet"
TOKENIZER_FILE = "tokenizer.json"
VERSIONS_FOLDER = "versions"


@dataclass(frozen=True)
class UnitNote:
    """What a unit of work left out: empty documents, and bad records by reason."""

    empty: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """One immutable version of a dataset."""

    dir: Path
    fingerprint: str
    tokenizer_fingerprint: str
    corpus_fingerprint: str
    vocab_size: int
    eot_id: int
    dtype: str  # of the tokens on disk, little endian: "uint16" or "uint32"
    shards: tuple[Shard, ...]
    unit_notes: Mapping[str, UnitNote] = field(default_factory=dict)  # units without shards, or with records left out

    @classmethod
    def open(cls, dir: Path, fingerprint: str | None = None) -> Self:
        """The newest version in `dir`, or the one with this fingerprint.

        Raises DataError if there is none, if its files do not belong together or are damaged, or if another version
        of Headrace wrote them.
        """
        folder = dir if fingerprint is None else dir / VERSIONS_FOLDER / fingerprint
        facts = _read_facts(folder / DATASET_FILE, dir, fingerprint)
        shards = parse_manifest(_read_manifest(folder, dir, facts), folder / MANIFEST_FILE)
        if facts["fingerprint"] != dataset_fingerprint(facts["tokenizer_fingerprint"], shards):
            raise DataError(
                f"{folder / DATASET_FILE}: its fingerprint is not that of {MANIFEST_FILE}: run prepare again"
            )
        notes = {key: UnitNote(**note) for key, note in facts["unit_notes"].items()}
        kept = ("fingerprint", "tokenizer_fingerprint", "corpus_fingerprint", "vocab_size", "eot_id", "dtype")
        return cls(dir=dir, shards=shards, unit_notes=notes, **{name: facts[name] for name in kept})

    def split(self, name: str) -> tuple[Shard, ...]:
        """The shards of "train" or "val", in manifest order."""
        return self._by_split[name]

    def tokens(self, split: str) -> int:
        """Number of tokens in a split, end marks included."""
        return sum(shard.tokens for shard in self.split(split))

    @property
    def tokenizer_path(self) -> Path:
        return self.dir / TOKENIZER_FILE

    @cached_property
    def _by_split(self) -> dict[str, tuple[Shard, ...]]:
        return {name: tuple(shard for shard in self.shards if shard.split == name) for name in SPLITS}


def commit(dataset: Dataset) -> None:
    """Make `dataset` the newest version of its folder: its own copy first, dataset.json last.

    A crash at any point leaves the version before, whole, as the newest.
    """
    manifest = manifest_bytes(dataset.shards)
    facts = _facts(dataset, manifest)
    version = dataset.dir / VERSIONS_FOLDER / dataset.fingerprint
    version.mkdir(parents=True, exist_ok=True)
    sync_folder(version.parent)
    for folder in (dataset.dir,) if _is_whole(dataset) else (version, dataset.dir):
        write_atomically(folder / MANIFEST_FILE, manifest)
        write_atomically(folder / DATASET_FILE, facts)


def check_format(dir: Path) -> None:
    """Raise DataError if `dir` holds a dataset of another format version."""
    try:
        facts: Any = json.loads((dir / DATASET_FILE).read_bytes())
    except (OSError, ValueError):
        return  # absent or torn, which is another matter
    _refuse_other_format(facts, dir / DATASET_FILE)


def version_fingerprints(dir: Path) -> tuple[str, ...]:
    """Fingerprints of the whole versions that `dir` holds, sorted."""
    return tuple(sorted(path.parent.name for path in (dir / VERSIONS_FOLDER).glob(f"*/{DATASET_FILE}")))


def _is_whole(dataset: Dataset) -> bool:
    """Whether the copy of this version, which running jobs may be reading, can stay."""
    try:
        Dataset.open(dataset.dir, dataset.fingerprint)
    except DataError:
        return False
    return True


def _facts(dataset: Dataset, manifest: bytes) -> bytes:
    facts = {
        "format": FORMAT_VERSION,
        "fingerprint": dataset.fingerprint,
        "tokenizer_fingerprint": dataset.tokenizer_fingerprint,
        "corpus_fingerprint": dataset.corpus_fingerprint,
        "vocab_size": dataset.vocab_size,
        "eot_id": dataset.eot_id,
        "dtype": dataset.dtype,
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "counts": counts(dataset.shards),
        "unit_notes": {key: asdict(note) for key, note in dataset.unit_notes.items()},
    }
    return (json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _read_facts(path: Path, dir: Path, fingerprint: str | None) -> dict[str, Any]:
    try:
        facts: Any = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        version = "" if fingerprint is None else f" of version {fingerprint}"
        raise DataError(f"{dir}: holds no dataset{version} ({path} is missing): run headrace prepare first") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}): run headrace prepare again") from error
    _refuse_other_format(facts, path)
    if fingerprint is not None and facts["fingerprint"] != fingerprint:
        raise DataError(f"{path}: says it is version {facts['fingerprint']}: run headrace prepare again")
    return dict(facts)


def _refuse_other_format(facts: Any, path: Path) -> None:
    found = facts.get("format") if isinstance(facts, dict) else None
    if not isinstance(facts, dict) or found != FORMAT_VERSION:
        raise DataError(
            f"{path}: format {found!r}, but this Headrace reads format {FORMAT_VERSION}: prepare into another folder"
        )


def _read_manifest(folder: Path, dir: Path, facts: Mapping[str, Any]) -> bytes:
    # A crash between the two renames of a commit leaves a newer manifest beside the older dataset.json.
    for path in (folder / MANIFEST_FILE, dir / VERSIONS_FOLDER / facts["fingerprint"] / MANIFEST_FILE):
        if path.is_file() and hashlib.sha256(data := path.read_bytes()).hexdigest() == facts["manifest_sha256"]:
            return data
    raise DataError(
        f"{folder / MANIFEST_FILE}: missing or damaged: dataset.json names one with SHA-256 "
        f"{facts['manifest_sha256']}: run headrace prepare again"
    )
