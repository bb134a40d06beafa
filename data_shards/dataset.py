"""A dataset: dataset.json and manifest.parquet, and what they say about the shards.

DIR/dataset.json and DIR/manifest.parquet are the newest version; DIR/versions/FINGERPRINT/ keeps every version for
the runs that read it. dataset.json is written last and names the hash of its manifest, so a torn pair is seen.

In an object store nothing can be renamed, and the newest version is the one that the highest of
DIR/commits/000001.json and on names. Each is put there on the condition that it is not there yet, so of two writers
that know the same newest version one succeeds. The two files of DIR itself are then copies, for those who download or
look at it; where nothing was ever committed (a dataset that was copied there), they count.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from data_shards.errors import DataError
from data_shards.files import write_atomically
from data_shards.manifest import (
    FORMAT_VERSION,
    SPLITS,
    ExampleLayout,
    Shard,
    counts,
    dataset_fingerprint,
    manifest_bytes,
    parse_manifest,
)
from data_shards.object_folder import ObjectFolder
from data_shards.rejects import Reject, parse_rejects
from data_shards.shard_cache import CachePlace, ShardCache
from data_shards.storage import Folder, LocalFolder, open_folder

DATASET_FILE = "dataset.json"
MANIFEST_FILE = "manifest.parquet"
TOKENIZER_FILE = "tokenizer.json"
VERSIONS_FOLDER = "versions"
COMMITS_FOLDER = "commits"
REJECTS_FILE = "rejects.parquet"
# Of dataset.json, what a Dataset has as it is, and what else must be there to read it.
_KEPT_FACTS = ("fingerprint", "tokenizer_fingerprint", "corpus_fingerprint", "vocab_size", "eot_id", "dtype")
_NEEDED_FACTS = (*_KEPT_FACTS, "manifest_sha256", "rejects_sha256", "unit_notes")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UnitNote:
    """What a unit of work left out: empty documents, bad records by reason, and where the first of these stand."""

    empty: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    places: tuple[Reject, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """One immutable version of a dataset."""

    dir: Path | str  # a folder of the file system, or an address such as s3://bucket/folder
    fingerprint: str
    tokenizer_fingerprint: str
    corpus_fingerprint: str
    vocab_size: int
    eot_id: int
    dtype: str  # of the tokens on disk, little endian: "uint16" or "uint32"
    shards: tuple[Shard, ...]
    unit_notes: Mapping[str, UnitNote] = field(default_factory=dict)  # units without shards, or with records left out
    examples: ExampleLayout | None = None  # of records for fine-tuning; None of text
    cache: CachePlace = field(default=CachePlace(), compare=False)  # where shards of an address are kept for reading

    @classmethod
    def open(cls, dir: Path | str, fingerprint: str | None = None, cache: CachePlace | None = None) -> Self:
        """The newest version in `dir`, or the one with this fingerprint.

        Raises DataError if there is none, if its files do not belong together or are damaged, or if another version
        of Headrace wrote them.
        """
        folder = open_folder(dir)
        base = newest_base(folder) if fingerprint is None else _version(fingerprint)
        facts = _read_facts(folder, base, fingerprint)
        shards = parse_manifest(_read_manifest(folder, base, facts), Path(folder.address) / base / MANIFEST_FILE)
        examples = ExampleLayout.from_dict(facts) if facts.get("loss_bit") else None
        if facts["fingerprint"] != dataset_fingerprint(facts["tokenizer_fingerprint"], shards, examples):
            raise DataError(
                f"{folder.address}/{base}{DATASET_FILE}: its fingerprint is not that of {MANIFEST_FILE}: "
                "run prepare again"
            )
        places = _read_places(folder, base, facts)
        notes = {key: UnitNote(**note, places=places.get(key, ())) for key, note in facts["unit_notes"].items()}
        return cls(
            dir=dir,
            shards=shards,
            unit_notes=notes,
            examples=examples,
            cache=cache or CachePlace(),
            **{name: facts[name] for name in _KEPT_FACTS},
        )

    @property
    def has_loss_bit(self) -> bool:
        """Whether stored ids say what the loss counts (`loss_bit`)."""
        return self.examples is not None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of a classification, by number; else none."""
        return () if self.examples is None else self.examples.classes

    def check_seq_len(self, seq_len: int) -> None:
        """Raises DataError if rows of examples have another length; text can be cut to any."""
        if self.examples is not None and self.examples.seq_len != seq_len:
            raise DataError(
                f"model.max_seq_len: must be {self.examples.seq_len}, since {self.dir} has examples packed into rows "
                f"of so many tokens; found {seq_len}: correct it, or prepare into another data.dir"
            )

    def split(self, name: str) -> tuple[Shard, ...]:
        """The shards of "train" or "val", in manifest order."""
        return self._by_split[name]

    def tokens(self, split: str) -> int:
        """Number of tokens in a split, end marks included."""
        return sum(shard.tokens for shard in self.split(split))

    @cached_property
    def folder(self) -> Folder:
        """Where the dataset lies."""
        return open_folder(self.dir)

    def shard_path(self, shard: Shard) -> Path:
        """A local file with the shard's bytes; of a dataset at an address one that is whole, waited for.

        Raises DataError where an address has no such shard, a damaged one, or does not answer.
        """
        if isinstance(self.folder, LocalFolder):
            return self.folder.path / shard.path
        return self._shard_cache.path(shard)

    def ahead(self, shards: Sequence[Shard]) -> None:
        """Tell which shards will be asked for next, the first first, so that those at an address are on their way."""
        if not isinstance(self.folder, LocalFolder):
            self._shard_cache.ahead(shards)

    def kept(self, name: str) -> bytes | None:
        """A file that belongs to this version, such as its tokenizer; None if there is none.

        A version may keep its own; else it is the folder's, which all share: so the tokenizer where a lock protects it.
        """
        own = self.folder.read(_version(self.fingerprint) + name)
        return self.folder.read(name) if own is None else own

    @cached_property
    def tokenizer_path(self) -> Path:
        """A local tokenizer.json. Raises DataError where an address has none."""
        if isinstance(self.folder, LocalFolder):
            return self.folder.path / TOKENIZER_FILE
        data = self.kept(TOKENIZER_FILE)
        if data is None:
            raise DataError(f"{self.folder.address}/{TOKENIZER_FILE}: missing: restore it, or give another data.dir")
        path = self._shard_cache.dir / f"{self.tokenizer_fingerprint}.json"
        write_atomically(path, data)
        return path

    @cached_property
    def _shard_cache(self) -> ShardCache:
        assert isinstance(self.folder, ObjectFolder)
        return ShardCache(self.folder, self.cache)

    @cached_property
    def _by_split(self) -> dict[str, tuple[Shard, ...]]:
        return {name: tuple(shard for shard in self.shards if shard.split == name) for name in SPLITS}


def commit(dataset: Dataset, files: Mapping[str, bytes] | None = None, after: int | None = None) -> None:
    """Make `dataset` the newest version of its folder: its own copy first, with `files` by name, dataset.json last.

    Of `files` rejects.parquet (`rejects.rejects_table`) holds the places of the notes' rejects. A crash at any point
    leaves the version before, whole, as the newest. `after` is the `newest_commit` that the writer knew when it began.
    Raises DataError, in an object store, if there is a newer one by now that is not the same version.
    """
    folder, files = dataset.folder, files or {}
    # What running jobs may be reading stays; only notes may have come to it, which are no part of the fingerprint.
    manifest = _whole_manifest(dataset) or manifest_bytes(dataset.shards)
    facts = _facts(dataset, manifest, files.get(REJECTS_FILE))
    texts = {**files, MANIFEST_FILE: manifest, DATASET_FILE: facts}
    for name, data in texts.items():
        own = _version(dataset.fingerprint) + name
        if folder.read(own) != data:
            folder.write(own, data)
    if not isinstance(folder, LocalFolder):
        _commit_if_newest(folder, dataset.fingerprint, newest_commit(folder) if after is None else after)
    for name, data in texts.items():
        folder.write(name, data)
    if REJECTS_FILE not in files:
        folder.remove(REJECTS_FILE)


def newest_commit(folder: Folder) -> int:
    """The number of the newest commit in an object store; 0 where there is none."""
    stems = [Path(name).stem for name in folder.names(f"{COMMITS_FOLDER}/")]
    return max((int(stem) for stem in stems if stem.isdecimal()), default=0)


def newest_base(folder: Folder) -> str:
    """What stands before the names of the newest version's files: nothing, or the version's folder and a slash."""
    number = 0 if isinstance(folder, LocalFolder) else newest_commit(folder)
    return _version(_committed_fingerprint(folder, number)) if number else ""


def has_dataset(folder: Folder) -> bool:
    """Whether there is a dataset in `folder`, whole or not. Raises DataError for one of another format version."""
    name = newest_base(folder) + DATASET_FILE
    data = folder.read(name)
    if data is None:
        return False
    try:
        facts: Any = json.loads(data)
    except ValueError:
        return True  # torn, which is another matter
    _refuse_other_format(facts, f"{folder.address}/{name}")
    return True


def version_fingerprints(dir: Path | str) -> tuple[str, ...]:
    """Fingerprints of the whole versions that `dir` holds, sorted."""
    paths = [Path(name) for name in open_folder(dir).names(f"{VERSIONS_FOLDER}/")]
    return tuple(sorted(path.parent.name for path in paths if path.name == DATASET_FILE))


def _version(fingerprint: str) -> str:
    return f"{VERSIONS_FOLDER}/{fingerprint}/"


def _commit_name(number: int) -> str:
    return f"{COMMITS_FOLDER}/{number:06d}.json"


def _commit_if_newest(folder: Folder, fingerprint: str, after: int) -> None:
    """The commit that follows number `after`, unless that says the same already."""
    if after and _committed_fingerprint(folder, after) == fingerprint:
        return
    data = json.dumps({"fingerprint": fingerprint}).encode()
    if not folder.create(_commit_name(after + 1), data):
        winner = _committed_fingerprint(folder, after + 1)
        raise DataError(
            f"data.dir: {folder.address} was prepared by another process at the same time, which was faster and made "
            f"version {winner}: run prepare again, which keeps the work that was done"
        )


def _committed_fingerprint(folder: Folder, number: int) -> str:
    name = _commit_name(number)
    data = folder.read(name)
    try:
        return str(json.loads(data or b"")["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder.address}/{name}: not a commit of Headrace: delete it, and the one before counts"
        ) from error


def _whole_manifest(dataset: Dataset) -> bytes | None:
    """The manifest that this version has, if it has a whole one."""
    try:
        Dataset.open(dataset.dir, dataset.fingerprint)
    except DataError:
        return None
    return dataset.folder.read(_version(dataset.fingerprint) + MANIFEST_FILE)


def _facts(dataset: Dataset, manifest: bytes, rejects: bytes | None) -> bytes:
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
        **({} if dataset.examples is None else dataset.examples.to_dict()),
        "rejects_sha256": None if rejects is None else hashlib.sha256(rejects).hexdigest(),
        "unit_notes": {
            key: {"empty": note.empty, "skipped": dict(note.skipped)} for key, note in dataset.unit_notes.items()
        },
    }
    return (json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _read_facts(folder: Folder, base: str, fingerprint: str | None) -> dict[str, Any]:
    where = f"{folder.address}/{base}{DATASET_FILE}"
    data = folder.read(base + DATASET_FILE)
    if data is None:
        version = "" if fingerprint is None else f" of version {fingerprint}"
        raise DataError(f"{folder.address}: holds no dataset{version} ({where} is missing): run headrace prepare first")
    try:
        facts: Any = json.loads(data)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}): run headrace prepare again") from error
    _refuse_other_format(facts, where)
    if missing := [name for name in _NEEDED_FACTS if name not in facts]:
        raise DataError(f"{where}: has no {missing[0]!r}, so it is not as it was written: run headrace prepare again")
    if fingerprint is not None and facts["fingerprint"] != fingerprint:
        raise DataError(f"{where}: says it is version {facts['fingerprint']}: run headrace prepare again")
    return dict(facts)


def _refuse_other_format(facts: Any, where: str) -> None:
    found = facts.get("format") if isinstance(facts, dict) else None
    if not isinstance(facts, dict) or found != FORMAT_VERSION:
        raise DataError(
            f"{where}: format {found!r}, but this Headrace reads format {FORMAT_VERSION}: prepare into another folder"
        )


def _read_manifest(folder: Folder, base: str, facts: Mapping[str, Any]) -> bytes:
    data = _read_companion(folder, base, facts, MANIFEST_FILE, facts["manifest_sha256"])
    if data is not None:
        return data
    raise DataError(
        f"{folder.address}/{base}{MANIFEST_FILE}: missing or damaged: dataset.json names one with SHA-256 "
        f"{facts['manifest_sha256']}: run headrace prepare again"
    )


def _read_places(folder: Folder, base: str, facts: Mapping[str, Any]) -> dict[str, tuple[Reject, ...]]:
    if facts["rejects_sha256"] is None:
        return {}
    data = _read_companion(folder, base, facts, REJECTS_FILE, facts["rejects_sha256"])
    if data is None:
        # No reason not to train: how many records were left out, and why, is known.
        logger.warning(
            "%s/%s%s: missing or damaged: the places of rejects are unknown", folder.address, base, REJECTS_FILE
        )
        return {}
    return parse_rejects(data)


def _read_companion(folder: Folder, base: str, facts: Mapping[str, Any], name: str, sha256: str) -> bytes | None:
    """The file of this hash that belongs to a dataset.json; None if there is none."""
    # A crash between the writes of a commit leaves newer files beside the older dataset.json.
    for place in (base + name, _version(facts["fingerprint"]) + name):
        data = folder.read(place)
        if data is not None and hashlib.sha256(data).hexdigest() == sha256:
            return data
    return None
