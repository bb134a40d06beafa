import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards.errors import DataError
from data_shards.manifest import Shard
from data_shards.shard_numbers import next_numbers, numbered, shard_number
from data_shards.storage import Folder, LocalFolder, open_folder
from data_shards.units import SplitRule, Unit
from tests.data_shards.remote import memory_address

KEYS = st.lists(st.sampled_from("abcdefghij"), unique=True)


def units_of(keys: str) -> list[Unit]:
    return [Unit(key, "en", SplitRule("train"), ()) for key in keys]


def shards_of(numbers: dict[str, int]) -> list[Shard]:
    shard = Shard("train", "en", "", 1, 1, 1, "", "", ())
    return [replace(shard, path=f"train-{number:05d}.tar", unit=key) for key, number in numbers.items()]


def numbers_in(folder: Folder, keys: str, known: dict[str, int] | None = None) -> dict[str, int]:
    return {unit.key: unit.shard for unit in numbered(folder, units_of(keys), shards_of(known or {}))}


@given(KEYS, st.dictionaries(st.sampled_from("abcdefghij"), st.integers(0, 99), max_size=6))
def test_next_numbers_keep_what_is_taken_and_give_the_rest_new_ones_in_order(
    keys: list[str], taken: dict[str, int]
) -> None:
    numbers = next_numbers(keys, taken)
    new = [numbers[key] for key in keys if key not in taken]
    assert {key: numbers[key] for key in taken} == taken
    assert new == list(range(max(taken.values(), default=-1) + 1, max(taken.values(), default=-1) + 1 + len(new)))


@pytest.mark.parametrize("path", ["train-1.tar", "test-00001.tar", "a/train-00001.tar", "train-00001.tar.gz", ""])
def test_shard_number_of_another_name_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="not a shard's name"):
        shard_number(path)


def test_numbered_local_counts_on_from_the_versions_and_leaves_nothing(tmp_path: Path) -> None:
    assert numbers_in(LocalFolder(tmp_path), "abc", {"b": 7, "x": 2}) == {"a": 8, "b": 7, "c": 9}
    assert list(tmp_path.iterdir()) == []


def test_numbered_remote_never_gives_a_number_twice() -> None:
    folder = open_folder(memory_address())
    assert numbers_in(folder, "abc") == {"a": 0, "b": 1, "c": 2}
    assert numbers_in(folder, "xbc") == {"x": 3, "b": 1, "c": 2}
    assert numbers_in(folder, "ca") == {"c": 2, "a": 0}
    assert folder.names(".numbers/") == [".numbers/000001.json", ".numbers/000002.json"]
    # A copied dataset has numbers that the ledger does not know.
    assert numbers_in(folder, "dea", {"d": 40}) == {"d": 40, "e": 41, "a": 0}


def test_numbered_remote_of_two_at_once_shares_what_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(memory_address())
    real, seen = type(folder).create, []

    def create(self: Folder, name: str, data: bytes) -> bool:
        if not seen:
            seen.append(numbers_in_while_other_writes())
        return bool(real(self, name, data))  # type: ignore[arg-type]

    def numbers_in_while_other_writes() -> dict[str, int]:
        with monkeypatch.context() as other:
            other.setattr(type(folder), "create", real)
            return numbers_in(folder, "xyb")

    monkeypatch.setattr(type(folder), "create", create)
    assert numbers_in(folder, "abc") == {"a": 3, "b": 2, "c": 4}
    assert seen == [{"x": 0, "y": 1, "b": 2}]


@pytest.mark.parametrize("page", [b"", b"[]", b'{"first": 1}', json.dumps({"first": "1", "keys": ["a"]}).encode()])
def test_numbered_remote_of_a_broken_ledger_is_refused(page: bytes) -> None:
    folder = open_folder(memory_address())
    folder.write(".numbers/000001.json", page)
    with pytest.raises(DataError, match=r"\.numbers/000001\.json: not a page of the ledger"):
        numbers_in(folder, "a")
