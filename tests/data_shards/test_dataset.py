import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_shards.dataset import Dataset, UnitNote, commit, version_fingerprints
from data_shards.errors import DataError
from data_shards.manifest import (
    Block,
    Shard,
    counts,
    dataset_fingerprint,
    manifest_bytes,
    manifest_order,
    parse_manifest,
)
from data_shards.rejects import Reject, rejects_table
from data_shards.storage import open_folder
from tests.data_shards.remote import memory_address

BLOCK = Block("000000", 640, 10, 2**32 - 1, 1664, 2, 7)
SHARDS = (
    Shard("train", "en", "train-00000.tar", 10, 2, 3072, "ab", "u0", (BLOCK,), 40),
    Shard("val", "en", "val-00000.tar", 20, 1, 3073, "cd", "u0", (BLOCK, replace(BLOCK, key="000001")), 80),
)


PLACES = (Reject("a.jsonl:3", "not JSON", "{"), Reject("a.jsonl:9", "not JSON", ""))
REJECTS = {"rejects.parquet": rejects_table([("u1", "en", PLACES)])}


def dataset(dir: Path, shards: tuple[Shard, ...] = SHARDS) -> Dataset:
    return Dataset(
        dir=dir,
        fingerprint=dataset_fingerprint("tok", shards),
        tokenizer_fingerprint="tok",
        corpus_fingerprint="corpus",
        vocab_size=300,
        eot_id=0,
        dtype="uint16",
        shards=shards,
        unit_notes={"u1": UnitNote(3, {"not JSON": 2}, PLACES)},
    )


def test_dataset_committed_is_read_back_the_same(tmp_path: Path) -> None:
    written = dataset(tmp_path)
    commit(written, REJECTS)
    assert Dataset.open(tmp_path) == written
    assert Dataset.open(tmp_path, written.fingerprint) == written
    assert version_fingerprints(tmp_path) == (written.fingerprint,)
    assert written.tokens("val") == 20
    assert written.split("train") == SHARDS[:1]
    assert written.tokenizer_path == tmp_path / "tokenizer.json"


def test_dataset_older_version_stays_readable(tmp_path: Path) -> None:
    old, new = dataset(tmp_path), dataset(tmp_path, SHARDS[:1])
    commit(old, REJECTS)
    commit(new, REJECTS)
    assert Dataset.open(tmp_path) == new
    assert Dataset.open(tmp_path, old.fingerprint) == old


def test_dataset_open_of_commit_cut_off_between_its_files_gives_the_older_version(tmp_path: Path) -> None:
    old, new = dataset(tmp_path), dataset(tmp_path, SHARDS[:1])
    commit(old, REJECTS)
    (tmp_path / "manifest.parquet").write_bytes(manifest_bytes(new.shards))
    assert Dataset.open(tmp_path) == old


def test_manifest_of_same_shards_has_same_bytes_and_comes_back() -> None:
    assert manifest_bytes(SHARDS) == manifest_bytes(SHARDS)
    assert parse_manifest(manifest_bytes(SHARDS), Path("m")) == SHARDS


def test_manifest_order_goes_by_number() -> None:
    paths = ["train-100000.tar", "train-99999.tar", "train-00001.tar"]
    shards = manifest_order(replace(SHARDS[0], path=path) for path in paths)
    assert [shard.path for shard in shards] == paths[::-1]


def test_dataset_fingerprint_depends_on_every_row_and_not_on_order() -> None:
    one = dataset_fingerprint("tok", SHARDS)
    assert dataset_fingerprint("tok", SHARDS[::-1]) == one
    assert dataset_fingerprint("other", SHARDS) != one
    assert dataset_fingerprint("tok", (replace(SHARDS[0], sha256="x"), SHARDS[1])) != one


def test_counts_go_by_split_and_source() -> None:
    table = counts([*SHARDS, replace(SHARDS[0], source="zh")])
    expected = {"shards": 1, "tokens": 10, "documents": 2, "bytes": 3072, "text_bytes": 40}
    assert table["train"] == {"en": expected, "zh": expected}


def test_dataset_open_of_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path}: holds no dataset .*run headrace prepare first"):
        Dataset.open(tmp_path)
    with pytest.raises(DataError, match="holds no dataset of version abc"):
        Dataset.open(tmp_path, "abc")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format": 3', '"format": 4', "format 4, but this Headrace reads format 3"),
        ('"format": 3', '"format": ', "dataset.json: not JSON"),
        ('"tokenizer_fingerprint": "tok"', '"tokenizer_fingerprint": "x"', "its fingerprint is not that of manifest"),
    ],
)
def test_dataset_open_of_changed_facts_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    commit(dataset(tmp_path))
    path = tmp_path / "dataset.json"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("fact", ["fingerprint", "dtype", "rejects_sha256", "unit_notes"])
def test_dataset_open_without_a_fact_is_refused_by_its_name(tmp_path: Path, fact: str) -> None:
    commit(dataset(tmp_path))
    facts = json.loads((tmp_path / "dataset.json").read_text())
    del facts[fact]
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=rf"dataset\.json: has no '{fact}'"):
        Dataset.open(tmp_path)


def test_dataset_open_of_damaged_manifests_is_refused(tmp_path: Path) -> None:
    commit(dataset(tmp_path))
    for path in tmp_path.rglob("manifest.parquet"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"manifest\.parquet: missing or damaged"):
        Dataset.open(tmp_path)


def without_places(given: Dataset) -> Dataset:
    return replace(given, unit_notes={key: replace(note, places=()) for key, note in given.unit_notes.items()})


def test_dataset_rejects_lie_beside_each_manifest_and_go_with_the_last(tmp_path: Path) -> None:
    old, new = dataset(tmp_path), replace(dataset(tmp_path, SHARDS[:1]), unit_notes={})
    commit(old, REJECTS)
    assert (tmp_path / "rejects.parquet").read_bytes() == REJECTS["rejects.parquet"]
    commit(new)
    assert not (tmp_path / "rejects.parquet").exists()
    assert Dataset.open(tmp_path) == new
    assert Dataset.open(tmp_path, old.fingerprint) == old


def test_dataset_whose_rejects_are_damaged_opens_without_their_places(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = dataset(tmp_path)
    commit(written, REJECTS)
    for path in tmp_path.rglob("rejects.parquet"):
        path.write_bytes(b"x")
    assert Dataset.open(tmp_path) == without_places(written)
    assert "rejects.parquet: missing or damaged: the places of rejects are unknown" in caplog.text


def test_dataset_remote_commit_after_another_one_is_refused_and_changes_nothing() -> None:
    address = memory_address()
    first, second, third = (
        replace(dataset(Path()), dir=address),
        *(replace(dataset(Path(), shards), dir=address) for shards in (SHARDS[:1], SHARDS[1:])),
    )
    commit(first, REJECTS, after=0)
    commit(second, after=1)
    with pytest.raises(DataError, match=rf"prepared by another process .* version {second.fingerprint}: run prepare"):
        commit(third, after=1)
    assert Dataset.open(address).fingerprint == second.fingerprint
    assert open_folder(address).names("commits/") == ["commits/000001.json", "commits/000002.json"]
    assert Dataset.open(address, first.fingerprint) == first


def test_dataset_remote_commit_of_the_same_version_twice_is_one() -> None:
    address = memory_address()
    made = replace(dataset(Path()), dir=address)
    commit(made, after=0)
    commit(made, after=0)
    commit(made)
    assert open_folder(address).names("commits/") == ["commits/000001.json"]


def test_dataset_remote_commit_by_another_name_than_a_number_is_none() -> None:
    address = memory_address()
    commit(replace(dataset(Path("/")), dir=address))
    open_folder(address).write("commits/000001 (copy).json", b"{}")
    assert Dataset.open(address).fingerprint == dataset(Path("/")).fingerprint


def test_dataset_remote_commit_that_is_no_commit_is_refused_naming_it() -> None:
    address = memory_address()
    commit(replace(dataset(Path()), dir=address))
    open_folder(address).write("commits/000002.json", b"{}")
    with pytest.raises(DataError, match=r"commits/000002\.json: not a commit of Headrace: delete it"):
        Dataset.open(address)


@pytest.mark.parametrize("dir", ["local", "remote"])
def test_dataset_committed_again_with_other_notes_has_those(tmp_path: Path, dir: str) -> None:
    first = replace(dataset(tmp_path), dir=tmp_path if dir == "local" else memory_address())
    second = replace(first, unit_notes={"u9": UnitNote(1)}, corpus_fingerprint="other")
    commit(first, REJECTS)
    commit(second)
    assert Dataset.open(first.dir) == Dataset.open(first.dir, first.fingerprint) == second
