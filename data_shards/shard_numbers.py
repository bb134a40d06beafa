"""Which unit's shards have which number: train-00007.tar is of unit 7.

A unit keeps the number that it has in any version of the dataset, so its shards need not be made again.

In an object store several prepares may write at once, and one that was taken for dead may go on. There a number, once
given to a unit, is never given to another: prepares add to a ledger, .numbers/000001.json and on, by conditional puts.
What a unit's shards hold depends on its key alone, so two writers of one name write the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from data_shards.errors import DataError
from data_shards.manifest import SPLITS, Shard
from data_shards.storage import Folder, LocalFolder
from data_shards.units import Unit

LEDGER_FOLDER = ".numbers"
SHARD_FILE = re.compile(rf"(?:{'|'.join(SPLITS)})-(\d{{5,}})\.tar")


def shard_number(path: str) -> int:
    """The number in a shard's name. Raises DataError for a name that is none."""
    match = SHARD_FILE.fullmatch(path)
    if match is None:
        raise DataError(
            f"{path}: not a shard's name: the manifest was not made by Headrace; prepare into another folder"
        )
    return int(match[1])


def numbered(folder: Folder, units: Sequence[Unit], shards: Iterable[Shard]) -> tuple[Unit, ...]:
    """Units with the numbers of their shards; `shards` are those of all versions of the dataset in `folder`."""
    taken = {shard.unit: shard_number(shard.path) for shard in shards}
    keys = [unit.key for unit in units]
    numbers = next_numbers(keys, taken) if isinstance(folder, LocalFolder) else _claimed(folder, keys, taken)
    return tuple(replace(unit, shard=numbers[unit.key]) for unit in units)


def next_numbers(keys: Iterable[str], taken: dict[str, int]) -> dict[str, int]:
    """The numbers taken, and for the other keys, in order, those after the highest of them. Pure."""
    numbers = dict(taken)
    free = max(taken.values(), default=-1) + 1
    for key in keys:
        if key not in numbers:
            numbers[key] = free
            free += 1
    return numbers


def _claimed(folder: Folder, keys: Sequence[str], taken: dict[str, int]) -> dict[str, int]:
    while True:
        names = folder.names(f"{LEDGER_FOLDER}/")
        known = {key: number for name in names for key, number in _page(folder, name).items()} | taken
        new = [key for key in keys if key not in known]
        numbers = next_numbers(new, known)
        if not new:
            return numbers
        page = {"first": numbers[new[0]], "keys": new}
        if folder.create(f"{LEDGER_FOLDER}/{len(names) + 1:06d}.json", json.dumps(page).encode()):
            return numbers
        # Another prepare was faster; what it took is seen now.


def _page(folder: Folder, name: str) -> dict[str, int]:
    data = folder.read(name)
    try:
        page = json.loads(data or b"")
        return {key: page["first"] + place for place, key in enumerate(page["keys"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder.address}/{name}: not a page of the ledger of shard numbers: prepare into another folder"
        ) from error
