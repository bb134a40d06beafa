"""What prepares leave behind that no version of the dataset needs, and its removal."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

from data_shards.dataset import Dataset, version_fingerprints
from data_shards.files import TEMPORARY_PREFIX
from data_shards.object_folder import ObjectFolder
from data_shards.shard_numbers import SHARD_FILE
from data_shards.storage import Folder, LocalFolder
from data_shards.worker import RECORDS_FOLDER, record_name

# In an object store a prepare that was killed cannot be told from one that still writes; after this time it is taken
# for dead. A prepare finds out, before it commits, whether its shards are still there.
DEAD_AFTER_SECONDS = 7 * 24 * 3600.0


def leftovers(folder: Folder, keys: Iterable[str]) -> list[str]:
    """Names of what a killed prepare of the units `keys` left besides shards: records, and temporary files."""
    if isinstance(folder, LocalFolder):
        names = (path.name for path in folder.path.glob(".*"))
        return [name for name in names if name == RECORDS_FOLDER or name.startswith(TEMPORARY_PREFIX)]
    return sorted({record_name(key) for key in keys}.intersection(folder.names(f"{RECORDS_FOLDER}/")))


def clean(folder: Folder, versions: Sequence[Dataset]) -> None:
    """Remove what no version needs: records, temporary files, shards of a prepare that did not come to its end.

    `versions` are all that can be read, the newest last. In an object store what other prepares may be writing stays
    until it is a week old.
    """
    units = {shard.unit for shard in versions[-1].shards} | versions[-1].unit_notes.keys()
    names = leftovers(folder, units)
    if isinstance(folder, ObjectFolder):
        names += folder.names_older_than(DEAD_AFTER_SECONDS, f"{RECORDS_FOLDER}/")
        shards = folder.names_older_than(DEAD_AFTER_SECONDS)
    else:
        shards = folder.names()
    # A version that cannot be read may need them.
    if {version.fingerprint for version in versions} == set(version_fingerprints(versions[-1].dir)):
        needed = {shard.path for version in versions for shard in version.shards}
        names += [name for name in shards if SHARD_FILE.fullmatch(name) and name not in needed]
    _remove(folder, names)


def _remove(folder: Folder, names: Sequence[str]) -> None:
    if isinstance(folder, LocalFolder) and RECORDS_FOLDER in names:
        shutil.rmtree(folder.path / RECORDS_FOLDER)
    folder.remove(*(name for name in names if name != RECORDS_FOLDER))
