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

BLOCK = Block("000000", 640, 10, 2**32 - 1, 1664, 2, 7)
SHARDS = (
    Shard("train", "en", "train-00000.tar", 10, 2, 3072, "ab", "u0", (BLOCK,), 40),
    Shard("val", "en", "val-00000.tar", 20, 1, 3073, "cd", "u0", (BLOCK, replace(BLOCK, key="000001")), 80),
)


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
        unit_notes={"u1": UnitNote(3, {"not JSON": 2})},
    )


def test_dataset_committed_is_read_back_the_same(tmp_path: Path) -> None:
    written = dataset(tmp_path)
    commit(written)
    assert Dataset.open(tmp_path) == written
    assert Dataset.open(tmp_path, written.fingerprint) == written
    assert version_fingerprints(tmp_path) == (written.fingerprint,)
    assert written.tokens("val") == 20
    assert written.split("train") == SHARDS[:1]
    assert written.tokenizer_path == tmp_path / "tokenizer.json"


def test_dataset_older_version_stays_readable(tmp_path: Path) -> None:
    old, new = dataset(tmp_path), dataset(tmp_path, SHARDS[:1])
    commit(old)
    commit(new)
    assert Dataset.open(tmp_path) == new
    assert Dataset.open(tmp_path, old.fingerprint) == old


def test_dataset_open_of_commit_cut_off_between_its_files_gives_the_older_version(tmp_path: Path) -> None:
    old, new = dataset(tmp_path), dataset(tmp_path, SHARDS[:1])
    commit(old)
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
        ('"format": 2', '"format": 3', "format 3, but this Headrace reads format 2"),
        ('"format": 2', '"format": ', "dataset.json: not JSON"),
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


def test_dataset_open_of_damaged_manifests_is_refused(tmp_path: Path) -> None:
    commit(dataset(tmp_path))
    for path in tmp_path.rglob("manifest.parquet"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"manifest\.parquet: missing or damaged"):
        Dataset.open(tmp_path)
