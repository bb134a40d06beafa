"""What earlier prepares of a dataset's folder made, and what of it can be used again."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from data_shards.dataset import Dataset, UnitNote, has_dataset, version_fingerprints
from data_shards.errors import DataError
from data_shards.manifest import Shard
from data_shards.rejects import LEFT_OUT_AS_ASKED
from data_shards.shard_numbers import shard_number
from data_shards.storage import Folder, open_folder
from data_shards.units import Unit
from data_shards.worker import RECORDS_FOLDER, UnitResult, read_record, record_name

logger = logging.getLogger(__name__)

# Records that are read at once: in an object store each takes a request of its own.
_READERS = 16


def newest_version(dir: Path | str) -> Dataset | None:
    """The newest version, or None if there is none or it is damaged; DataError if it has another format."""
    if not has_dataset(open_folder(dir)):
        return None
    try:
        return Dataset.open(dir)
    except DataError as error:
        logger.warning("%s; it is being made anew", error)
        return None


def all_versions(dir: Path | str) -> tuple[Dataset, ...]:
    """All versions that can be read, the newest last."""
    committed = newest_version(dir)
    versions = [] if committed is None else [committed]
    for fingerprint in version_fingerprints(dir):
        if committed is None or fingerprint != committed.fingerprint:
            try:
                versions.insert(0, Dataset.open(dir, fingerprint))
            except DataError as error:
                logger.warning("an older version is left out: %s", error)
    return tuple(versions)


def results_of(dataset: Dataset) -> dict[str, UnitResult]:
    """What the units of a version gave, by key."""
    shards: dict[str, list[Shard]] = {key: [] for key in dataset.unit_notes}
    for shard in dataset.shards:
        shards.setdefault(shard.unit, []).append(shard)
    notes = dataset.unit_notes
    return {key: UnitResult(key, tuple(own), notes.get(key, UnitNote())) for key, own in shards.items()}


def usable_results(
    results: Mapping[str, UnitResult], sizes: Mapping[str, int], on_bad_record: str
) -> dict[str, UnitResult]:
    """Results whose shards are there in the size they should have, and whose bad records are still allowed."""

    def usable(result: UnitResult) -> bool:
        if on_bad_record == "fail" and result.note.skipped.keys() - {LEFT_OUT_AS_ASKED}:
            return False
        return all(sizes.get(shard.path) == shard.bytes for shard in result.shards)

    return {key: result for key, result in results.items() if usable(result)}


def finished_results(
    units: Sequence[Unit], versions: Sequence[Dataset], folder: Folder, on_bad_record: str
) -> dict[str, UnitResult]:
    """Results that need not be made again: from committed versions, and from the records of a killed prepare."""
    old = {key: result for version in versions for key, result in results_of(version).items()}
    there = set(folder.names(f"{RECORDS_FOLDER}/"))
    recorded = [unit.key for unit in units if unit.key not in old and record_name(unit.key) in there]
    with ThreadPoolExecutor(_READERS) as pool:
        records = dict(zip(recorded, pool.map(partial(read_record, folder), recorded), strict=True))
    results = {}
    for unit in units:
        result = old.get(unit.key) or records.get(unit.key)
        # A record of a killed prepare of another corpus may have given the unit another number.
        if result is not None and all(shard_number(shard.path) == unit.shard for shard in result.shards):
            results[unit.key] = result
    return usable_results(results, folder.sizes(), on_bad_record)
