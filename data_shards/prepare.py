"""Corpus to dataset: plan units, run those that are new, commit a manifest. Safe to kill and to run again."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from data_shards.dataset import (
    REJECTS_FILE,
    TOKENIZER_FILE,
    Dataset,
    commit,
    newest_commit,
)
from data_shards.dataset_tokenizer import SETTINGS_FILE, committed_tokenizer, fast_encoder_agrees, first_tokenizer
from data_shards.errors import DataError
from data_shards.example_form import ExampleForm, check_classes, example_form
from data_shards.kept_template import template_file
from data_shards.leftovers import clean, leftovers
from data_shards.lock import locked
from data_shards.manifest import SPLITS, ExampleLayout, Shard, dataset_fingerprint, manifest_order
from data_shards.previous import all_versions, finished_results, newest_version, results_of, usable_results
from data_shards.rejects import rejects_table
from data_shards.settings import DataSettings
from data_shards.shard_numbers import numbered
from data_shards.source_cache import SourceCache
from data_shards.storage import Folder, LocalFolder, open_folder
from data_shards.tokenizer import TextTokenizer, parse_tokenizer
from data_shards.unit_output import token_dtype
from data_shards.units import Unit, corpus_fingerprint, plan_units, with_keys
from data_shards.worker import UnitResult, UnitWorker, record_name

logger = logging.getLogger(__name__)

RunUnits = Callable[[UnitWorker, Sequence[Unit]], Iterable[UnitResult]]


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
    dir: Path | str,
    min_val_tokens: int,
    run_units: RunUnits = run_units_serially,
    progress: ShowProgress | None = None,
) -> Dataset:
    """Make or update the dataset in `dir`; does nothing if it is as the settings and the corpus ask.

    Records of a task are packed into rows of `min_val_tokens` - 1 tokens, which is then the only sequence length.
    The paths in `settings` are absolute (`settings.resolve_paths`). `run_units` may run units anywhere that sees `dir`
    and the corpus, in any order. Raises DataError for unusable settings, files or records, for an empty corpus, if no
    validation shard has `min_val_tokens` tokens, or if another prepare is at work in `dir` (in an object store: was,
    and was faster).
    """
    if isinstance(dir, Path):
        dir = dir.absolute()
    folder = open_folder(dir)
    cache = SourceCache(folder)
    corpus = plan_units(settings, cache.cut)
    form = _form(settings, dir, corpus, min_val_tokens - 1)
    dataset = None if cache.changed else _up_to_date(settings, dir, corpus, form)
    if dataset is None:
        with _alone(folder):
            cache.save()
            dataset = _prepare(settings, dir, corpus, form, cache, min_val_tokens, run_units, progress)
    _check_sizes_of_splits(dataset.shards, min_val_tokens, settings)
    if progress is not None:
        total = len(corpus)
        documents = sum(shard.documents for shard in dataset.shards)
        progress(PrepareProgress("done", total, total, sum(map(dataset.tokens, SPLITS)), documents))
    return dataset


def _alone(folder: Folder) -> AbstractContextManager[None]:
    """The lock of a folder; object stores have none, and need none: see `shard_numbers` and `dataset.commit`."""
    return locked(folder.path) if isinstance(folder, LocalFolder) else nullcontext()


def _form(settings: DataSettings, dir: Path | str, corpus: Sequence[Unit], seq_len: int) -> ExampleForm | None:
    """How records become examples. Classes that the same corpus had need not be looked for again."""
    if settings.task is None:
        return None
    committed = newest_version(dir) if settings.task.kind == "class" and settings.classes is None else None
    is_same = committed is not None and committed.corpus_fingerprint == corpus_fingerprint(corpus)
    return example_form(settings, seq_len, corpus, committed.classes if committed is not None and is_same else ())


def _up_to_date(
    settings: DataSettings, dir: Path | str, corpus: Sequence[Unit], form: ExampleForm | None
) -> Dataset | None:
    """The dataset in `dir` if nothing is to be done; only reads."""
    committed = newest_version(dir)
    if committed is None:
        return None
    tokenizer = committed_tokenizer(settings, committed)
    keys = {unit.key for unit in _keyed(settings, corpus, tokenizer, form)}
    results = results_of(committed)
    if keys != results.keys() or leftovers(committed.folder, keys):
        return None
    usable = usable_results(results, committed.folder.sizes(), settings.on_bad_record)
    return committed if keys == usable.keys() else None


def _keyed(
    settings: DataSettings, corpus: Sequence[Unit], tokenizer: TextTokenizer, form: ExampleForm | None
) -> tuple[Unit, ...]:
    return with_keys(corpus, tokenizer.fingerprint, settings.block_tokens, "" if form is None else form.key)


def _prepare(
    settings: DataSettings,
    dir: Path | str,
    corpus: Sequence[Unit],
    form: ExampleForm | None,
    cache: SourceCache,
    min_val_tokens: int,
    run_units: RunUnits,
    progress: ShowProgress | None,
) -> Dataset:
    if progress is not None:
        progress(PrepareProgress("tokenizer", 0, len(corpus), 0, 0))
    folder = open_folder(dir)
    fingerprint = corpus_fingerprint(corpus)
    after = newest_commit(folder)
    kept = all_versions(dir)
    if kept:
        tokenizer = committed_tokenizer(settings, kept[-1])
        _bring_back_tokenizer(kept[-1])
    else:
        tokenizer = first_tokenizer(settings, folder, corpus, fingerprint)
    if form is not None:
        check_classes(form, tokenizer.vocab_size)
    keyed = _keyed(settings, corpus, tokenizer, form)
    units = numbered(folder, keyed, [shard for version in kept for shard in version.shards])
    done = finished_results(units, kept, folder, settings.on_bad_record)
    pending = [unit for unit in units if unit.key not in done]
    fast = bool(pending) and fast_encoder_agrees(tokenizer, pending, settings.on_bad_record)
    worker = UnitWorker(
        str(dir), tokenizer.fingerprint, settings.block_tokens, settings.on_bad_record, settings.packing, fast, form
    )
    results = _run(worker, units, done, run_units, progress)
    _refuse_changed_files(cache, units, folder)
    dataset = _assemble(dir, tokenizer, fingerprint, form, [results[unit.key] for unit in units])
    _log_left_out(dataset)
    _check_sizes_of_splits(dataset.shards, min_val_tokens, settings)
    _refuse_lost_shards(dataset)
    template = template_file(None if form is None else form.template)
    commit(dataset, _rejects_file(units, results) | _tokenizer_files(dataset) | template, after)
    clean(folder, (*kept, dataset))
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


def _bring_back_tokenizer(committed: Dataset) -> None:
    """Workers read the tokenizer of the folder, which a prepare that lost in an object store may have replaced."""
    folder = committed.folder
    for name in () if isinstance(folder, LocalFolder) else (TOKENIZER_FILE, SETTINGS_FILE):
        data = committed.kept(name)
        if data is not None and folder.read(name) != data:
            folder.write(name, data)


def _tokenizer_files(dataset: Dataset) -> dict[str, bytes]:
    """What a version in an object store keeps for itself. Raises DataError where it was replaced meanwhile."""
    folder = dataset.folder
    if isinstance(folder, LocalFolder):
        return {}
    data, note = folder.read(TOKENIZER_FILE), folder.read(SETTINGS_FILE)
    where = f"{folder.address}/{TOKENIZER_FILE}"
    if data is not None and note is not None:
        found = parse_tokenizer(data, Path(where)).fingerprint, json.loads(note)["fingerprint"]
        if found == (dataset.tokenizer_fingerprint, dataset.tokenizer_fingerprint):
            return {TOKENIZER_FILE: data, SETTINGS_FILE: note}
    raise DataError(
        f"{where}: was replaced by another prepare, which is at work there at the same time: run prepare again, one "
        "at a time"
    )


def _rejects_file(units: Sequence[Unit], results: Mapping[str, UnitResult]) -> dict[str, bytes]:
    placed = [(unit.key, unit.source, results[unit.key].note.places) for unit in units]
    return {REJECTS_FILE: rejects_table(placed)} if any(places for _, _, places in placed) else {}


def _refuse_lost_shards(dataset: Dataset) -> None:
    """A manifest names whole shards only."""
    sizes = dataset.folder.sizes()
    lost = [shard for shard in dataset.shards if sizes.get(shard.path) != shard.bytes]
    if lost:
        dataset.folder.remove(*(record_name(shard.unit) for shard in lost))
        raise DataError(
            f"{dataset.folder.address}/{lost[0].path}: {sizes.get(lost[0].path, 'no')} bytes are there where "
            f"{lost[0].bytes} were written ({len(lost)} shards in all): something removes or changes files there; "
            "see to that and run prepare again"
        )


def _refuse_changed_files(cache: SourceCache, units: Sequence[Unit], folder: Folder) -> None:
    changed = cache.changed_files()
    if not changed:
        return
    spoilt = [unit for unit in units if any(piece.file.path in changed for piece in unit.pieces)]
    folder.remove(*(record_name(unit.key) for unit in spoilt))
    raise DataError(f"{min(changed)}: changed while prepare was reading it: run prepare again when it is complete")


def _assemble(
    dir: Path | str,
    tokenizer: TextTokenizer,
    corpus: str,
    form: ExampleForm | None,
    results: Sequence[UnitResult],
) -> Dataset:
    shards = manifest_order(shard for result in results for shard in result.shards)
    notes = {r.key: r.note for r in results if not r.shards or r.note.empty or r.note.skipped}
    examples = None if form is None else ExampleLayout(form.task, form.seq_len, form.classes)
    return Dataset(
        dir=dir,
        fingerprint=dataset_fingerprint(tokenizer.fingerprint, shards, examples),
        tokenizer_fingerprint=tokenizer.fingerprint,
        corpus_fingerprint=corpus,
        vocab_size=tokenizer.vocab_size,
        eot_id=tokenizer.eot_id,
        dtype=token_dtype(tokenizer.vocab_size) if form is None else "uint32",
        shards=shards,
        unit_notes=notes,
        examples=examples,
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
        if settings.val_sources is not None:
            raise DataError("data.sources: hold no document to train on: give files that hold text")
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
