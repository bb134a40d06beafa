"""Corpus to dataset: plan units, run those that are new, commit a manifest. Safe to kill and to run again."""

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from data_shards.dataset import DATASET_FILE, Dataset, UnitNote, check_format, commit, version_fingerprints
from data_shards.dataset_tokenizer import committed_tokenizer, first_tokenizer
from data_shards.errors import DataError
from data_shards.files import TEMPORARY_PREFIX
from data_shards.lock import locked
from data_shards.manifest import SPLITS, Shard, dataset_fingerprint, manifest_order
from data_shards.settings import DataSettings
from data_shards.source_cache import CACHE_FILE, SourceCache
from data_shards.tokenizer import TextTokenizer
from data_shards.units import Unit, corpus_fingerprint, plan_units, with_keys
from data_shards.worker import RECORDS_FOLDER, UnitResult, UnitWorker, read_record, token_dtype

logger = logging.getLogger(__name__)

_SHARD_FILE = re.compile(rf"(?:{'|'.join(SPLITS)})-(\d{{5,}})\.tar")

RunUnits = Callable[[Callable[[Unit], UnitResult], Sequence[Unit]], Iterable[UnitResult]]


@dataclass(frozen=True)
class PrepareProgress:
    """How far prepare is; tokens and documents are those of the finished units."""

    phase: Literal["tokenizer", "units", "done"]
    units_done: int
    units_total: int
    tokens: int
    documents: int


ShowProgress = Callable[[PrepareProgress], None]


def run_units_serially(work: Callable[[Unit], UnitResult], units: Sequence[Unit]) -> Iterator[UnitResult]:
    """Run units in this process, one after the other."""
    return map(work, units)


def prepare(
    settings: DataSettings,
    *,
    dir: Path,
    min_val_tokens: int,
    run_units: RunUnits = run_units_serially,
    progress: ShowProgress | None = None,
) -> Dataset:
    """Make or update the dataset in `dir`; does nothing if it is as the settings and the corpus ask.

    The paths in `settings` are absolute (`settings.resolve_paths`). `run_units` may run units anywhere that sees `dir`
    and the corpus, in any order. Raises DataError for unusable settings, files or records, for an empty corpus, if no
    validation shard has `min_val_tokens` tokens, or if another prepare is at work in `dir`.
    """
    dir = dir.absolute()
    cache = SourceCache(dir / CACHE_FILE)
    corpus = plan_units(settings, cache.cut)
    dataset = None if cache.changed else _up_to_date(settings, dir, corpus)
    if dataset is None:
        with locked(dir):
            cache.save()
            dataset = _prepare(settings, dir, corpus, cache, min_val_tokens, run_units, progress)
    _check_sizes_of_splits(dataset.shards, min_val_tokens, settings)
    if progress is not None:
        total = len(corpus)
        documents = sum(shard.documents for shard in dataset.shards)
        progress(PrepareProgress("done", total, total, sum(map(dataset.tokens, SPLITS)), documents))
    return dataset


def _up_to_date(settings: DataSettings, dir: Path, corpus: Sequence[Unit]) -> Dataset | None:
    """The dataset in `dir` if nothing is to be done; only reads."""
    committed = _committed(dir)
    if committed is None or _leftovers(dir):
        return None
    tokenizer = committed_tokenizer(settings, committed)
    keys = {unit.key for unit in with_keys(corpus, tokenizer.fingerprint, settings.block_tokens)}
    results = _results_of(committed)
    return committed if keys == _usable(results, dir, settings.on_bad_record).keys() == results.keys() else None


def _prepare(
    settings: DataSettings,
    dir: Path,
    corpus: Sequence[Unit],
    cache: SourceCache,
    min_val_tokens: int,
    run_units: RunUnits,
    progress: ShowProgress | None,
) -> Dataset:
    if progress is not None:
        progress(PrepareProgress("tokenizer", 0, len(corpus), 0, 0))
    fingerprint = corpus_fingerprint(corpus)
    kept = _versions(dir)
    tokenizer = committed_tokenizer(settings, kept[-1]) if kept else first_tokenizer(settings, dir, corpus, fingerprint)
    units = _numbered(with_keys(corpus, tokenizer.fingerprint, settings.block_tokens), kept)
    done = _finished(units, kept, dir, settings.on_bad_record)
    worker = UnitWorker(str(dir), tokenizer.fingerprint, settings.block_tokens, settings.on_bad_record)
    results = _run(worker, units, done, run_units, progress)
    _refuse_changed_files(cache, units, dir)
    dataset = _assemble(dir, tokenizer, fingerprint, [results[unit.key] for unit in units])
    _log_left_out(dataset)
    _check_sizes_of_splits(dataset.shards, min_val_tokens, settings)
    commit(dataset)
    _clean(dir, (*kept, dataset))
    return dataset


def _run(
    worker: UnitWorker,
    units: Sequence[Unit],
    done: Mapping[str, UnitResult],
    run_units: RunUnits,
    progress: ShowProgress | None,
) -> dict[str, UnitResult]:
    """Results of all units by key: those that are there, and those that `run_units` gives, in whatever order."""
    results: dict[str, UnitResult] = {}
    tokens = documents = 0
    pending = [unit for unit in units if unit.key not in done]
    for result in chain(done.values(), run_units(worker, pending) if pending else ()):
        results[result.key] = result
        tokens += sum(shard.tokens for shard in result.shards)
        documents += sum(shard.documents for shard in result.shards)
        if progress is not None and len(results) >= len(done):
            progress(PrepareProgress("units", len(results), len(units), tokens, documents))
    missing = [unit.key for unit in units if unit.key not in results]
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(units)} units gave no result, the first is {missing[0]}")
    return results


def _committed(dir: Path) -> Dataset | None:
    """The newest version, or None if there is none or it is damaged; DataError if it has another format."""
    if not (dir / DATASET_FILE).is_file():
        return None
    check_format(dir)
    try:
        return Dataset.open(dir)
    except DataError as error:
        logger.warning("%s; it is being made anew", error)
        return None


def _versions(dir: Path) -> tuple[Dataset, ...]:
    """All versions that can be read, the newest last."""
    committed = _committed(dir)
    versions = [] if committed is None else [committed]
    for fingerprint in version_fingerprints(dir):
        if committed is None or fingerprint != committed.fingerprint:
            try:
                versions.insert(0, Dataset.open(dir, fingerprint))
            except DataError as error:
                logger.warning("an older version is left out: %s", error)
    return tuple(versions)


def _results_of(dataset: Dataset) -> dict[str, UnitResult]:
    """What the units of a version gave, by key."""
    shards: dict[str, list[Shard]] = {key: [] for key in dataset.unit_notes}
    for shard in dataset.shards:
        shards.setdefault(shard.unit, []).append(shard)
    notes = dataset.unit_notes
    return {key: UnitResult(key, tuple(own), notes.get(key, UnitNote())) for key, own in shards.items()}


def _usable(results: Mapping[str, UnitResult], dir: Path, on_bad_record: str) -> dict[str, UnitResult]:
    """Results whose shards are there in the size they should have, and whose bad records are still allowed."""

    def usable(result: UnitResult) -> bool:
        if result.note.skipped and on_bad_record == "fail":
            return False
        return all(_size(dir / shard.path) == shard.bytes for shard in result.shards)

    return {key: result for key, result in results.items() if usable(result)}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _numbered(units: Sequence[Unit], versions: Sequence[Dataset]) -> tuple[Unit, ...]:
    """Units with shard numbers: the one a unit has in any version, or the next that no version uses."""
    taken = {shard.unit: _number(shard.path) for version in versions for shard in version.shards}
    free = max(taken.values(), default=-1) + 1
    numbered = []
    for unit in units:
        number = taken.get(unit.key, free)
        free += number == free
        numbered.append(replace(unit, shard=number))
    return tuple(numbered)


def _number(path: str) -> int:
    match = _SHARD_FILE.fullmatch(path)
    if match is None:
        raise DataError(
            f"{path}: not a shard's name: the manifest was not made by Headrace; prepare into another folder"
        )
    return int(match[1])


def _finished(
    units: Sequence[Unit], versions: Sequence[Dataset], dir: Path, on_bad_record: str
) -> dict[str, UnitResult]:
    """Results that need not be made again: from committed versions, and from the records of a killed prepare."""
    old = {key: result for version in versions for key, result in _results_of(version).items()}
    results = {}
    for unit in units:
        result = old.get(unit.key) or read_record(dir, unit.key)
        # A record of a killed prepare of another corpus may have given the unit another number.
        if result is not None and all(_number(shard.path) == unit.shard for shard in result.shards):
            results[unit.key] = result
    return _usable(results, dir, on_bad_record)


def _refuse_changed_files(cache: SourceCache, units: Sequence[Unit], dir: Path) -> None:
    changed = cache.changed_files()
    if not changed:
        return
    for unit in units:
        if any(piece.file.path in changed for piece in unit.pieces):
            (dir / RECORDS_FOLDER / f"{unit.key}.json").unlink(missing_ok=True)
    raise DataError(f"{min(changed)}: changed while prepare was reading it: run prepare again when it is complete")


def _assemble(dir: Path, tokenizer: TextTokenizer, corpus: str, results: Sequence[UnitResult]) -> Dataset:
    shards = manifest_order(shard for result in results for shard in result.shards)
    notes = {r.key: r.note for r in results if not r.shards or r.note.empty or r.note.skipped}
    return Dataset(
        dir=dir,
        fingerprint=dataset_fingerprint(tokenizer.fingerprint, shards),
        tokenizer_fingerprint=tokenizer.fingerprint,
        corpus_fingerprint=corpus,
        vocab_size=tokenizer.vocab_size,
        eot_id=tokenizer.eot_id,
        dtype=token_dtype(tokenizer.vocab_size),
        shards=shards,
        unit_notes=notes,
    )


def _log_left_out(dataset: Dataset) -> None:
    empty = sum(note.empty for note in dataset.unit_notes.values())
    reasons = sorted({reason for note in dataset.unit_notes.values() for reason in note.skipped})
    if empty:
        logger.info("%d empty documents were left out", empty)
    for reason in reasons:
        number = sum(note.skipped.get(reason, 0) for note in dataset.unit_notes.values())
        logger.warning("%d records were skipped: %s", number, reason)


def _check_sizes_of_splits(shards: Sequence[Shard], min_val_tokens: int, settings: DataSettings) -> None:
    if not shards:
        raise DataError("data.sources: hold no document: give files that hold text")
    if not any(shard.split == "train" for shard in shards):
        raise DataError("data.sources: all documents are held out, none is left to train on: lower data.val_fraction")
    sizes = [shard.tokens for shard in shards if shard.split == "val"]
    if max(sizes, default=0) >= min_val_tokens:
        return
    if settings.val_sources is None:
        advice = f"raise data.val_fraction (now {settings.val_fraction}) or give data.val_sources"
    else:
        advice = "give more text in data.val_sources"
    if sum(sizes) >= min_val_tokens:
        advice += f", or raise data.unit_bytes (now {settings.unit_bytes})"
    raise DataError(
        f"data: the validation set has {sum(sizes)} tokens in {len(sizes)} shards, at most {max(sizes, default=0)} in "
        f"one, but one sequence needs {min_val_tokens} in one: {advice}"
    )


def _leftovers(dir: Path) -> list[Path]:
    """What a killed prepare left behind."""
    return [path for path in dir.glob(".*") if path.name == RECORDS_FOLDER or path.name.startswith(TEMPORARY_PREFIX)]


def _clean(dir: Path, versions: Sequence[Dataset]) -> None:
    """Remove what no version needs: records, temporary files, shards of a prepare that did not come to its end."""
    needed = {shard.path for version in versions for shard in version.shards}
    shards = [path for path in dir.glob("*.tar") if _SHARD_FILE.fullmatch(path.name) and path.name not in needed]
    if {version.fingerprint for version in versions} != set(version_fingerprints(dir)):
        shards = []  # a version that cannot be read may need them
    for path in (*_leftovers(dir), *shards):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
