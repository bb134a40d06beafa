import dataclasses
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.errors import DataError
from data_shards.object_folder import ObjectFolder
from data_shards.shard_reader import ShardReader, check_sizes, wrong_sizes
from tests.data_shards.loader_dataset import build_dataset, shard_ids


def reader_of(folder: Path, **changes: object) -> ShardReader:
    dataset = build_dataset(folder, [30, 50], **changes)  # type: ignore[arg-type]
    return ShardReader(dataset, dataset.split("train"))


@settings(max_examples=40, deadline=None)
@given(
    block_tokens=st.integers(1, 60),
    documents=st.sets(st.integers(1, 49), max_size=20),
    first=st.integers(0, 48),
    data=st.data(),
)
def test_document_starts_of_any_slice_are_those_within_it(
    tmp_path_factory: pytest.TempPathFactory, block_tokens: int, documents: set[int], first: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, 50 - first))
    places = [0, *sorted(documents)]
    reader = reader_of(tmp_path_factory.mktemp("data"), block_tokens=block_tokens, documents=places)
    starts = reader.document_starts(1, first, n)
    assert starts.dtype == np.int64
    assert starts.tolist() == [place - first for place in places if first < place < first + n]
    np.testing.assert_array_equal(
        reader.read_rows(np.array([1]), np.array([first]), (1, n))[0], shard_ids(1, 50)[first : first + n]
    )


def test_starts_of_rows_pad_rows_have_none(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, documents=[0, 4, 20])
    starts = reader.starts_of_rows(np.array([1, 0]), np.array([0, 4]), (3, 21))
    assert [row.tolist() for row in starts] == [[4, 20], [16], []]


def test_document_starts_damaged_are_refused_though_the_tokens_are_whole(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [30], documents=[0, 9])
    block = dataset.shards[0].blocks[1]
    with (tmp_path / "train-00000.tar").open("r+b") as file:
        file.seek(block.docs_offset)
        file.write(b"\x05")
    reader = ShardReader(dataset, dataset.split("train"))
    reader.prove(0, 0, 30, with_documents=False)
    with pytest.raises(DataError, match=r"Block 000001 of shard .*\.tar is damaged: its document starts have"):
        reader.document_starts(0, 0, 30)
    with pytest.raises(DataError, match="its document starts have the hash"):
        reader.prove(0, 8, 4, with_documents=True)


def test_prove_looks_at_the_blocks_of_the_slice_alone(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [30])
    with (tmp_path / "train-00000.tar").open("r+b") as file:
        file.seek(dataset.shards[0].blocks[2].token_offset)
        file.write(b"\xff")
    reader = ShardReader(dataset, dataset.split("train"))
    reader.prove(0, 0, 14, with_documents=True)
    reader.prove(0, 21, 9, with_documents=True)
    with pytest.raises(DataError, match="Block 000002"):
        reader.prove(0, 0, 15, with_documents=True)


def test_wrong_sizes_name_each_file_and_what_became_of_it(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [30, 30, 30], [30])
    size = dataset.shards[0].bytes
    paths = [tmp_path / shard.path for shard in dataset.shards]
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    paths[1].write_bytes(paths[1].read_bytes() + b"x")
    paths[3].unlink()
    messages = list(wrong_sizes(dataset))
    assert [message.split(":")[0] for message in messages] == [
        f"Shard {paths[0]} has {size - 1} bytes and the manifest says {size}, so it was cut since it was made",
        f"Shard {paths[1]} has {size + 1} bytes and the manifest says {size}, so it has grown since it was made",
        f"Shard {paths[3]} cannot be read (No such file or directory); the manifest says {size} bytes",
    ]
    with pytest.raises(DataError, match=r"train-00000\.tar has"):
        check_sizes(dataset)


def test_wrong_sizes_of_a_remote_dataset_come_from_one_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = build_dataset(tmp_path, [30, 30], [30])
    files = fsspec.filesystem("memory")
    for shard in local.shards[:2]:
        files.pipe_file(f"/wrong-sizes/{shard.path}", (tmp_path / shard.path).read_bytes()[: shard.bytes - 3])
    remote = dataclasses.replace(local, dir="memory://wrong-sizes")
    monkeypatch.setattr(ObjectFolder, "size", lambda *_: pytest.fail("asked for a single file"))
    messages = list(wrong_sizes(remote))
    assert [message.split(" has ")[0].split(" cannot ")[0] for message in messages] == [
        f"Shard memory://wrong-sizes/{shard.path}" for shard in local.shards
    ]
    assert "cannot be read (no such file)" in messages[2]
