from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_shards.class_counts import class_counts
from data_shards.errors import DataError
from data_shards.loss_bit import LOSS_BIT
from tests.data_shards.loader_dataset import build_dataset, write_shard


def class_shard(folder: Path, number: int, split: str, classes: list[int]) -> object:
    """A shard of texts of three tokens, each with its class behind it."""
    ids = np.array([[500, 7, 501, LOSS_BIT | label] for label in classes]).ravel()
    return write_shard(folder, split, "a", number, ids, 7, "uint32", list(range(0, len(ids), 4)))


def test_class_counts_are_those_of_the_splits_labels_alone(tmp_path: Path) -> None:
    labels = [[0, 2, 2], [2, 0, 0, 0, 0], [1]]
    shards = [
        class_shard(tmp_path, i, split, own)
        for i, (split, own) in enumerate(zip(("train", "train", "val"), labels, strict=True))
    ]
    dataset = dataclasses.replace(
        build_dataset(tmp_path / "empty", []), dir=tmp_path, dtype="uint32", shards=tuple(shards)
    )
    assert class_counts(dataset, 3).tolist() == [5, 0, 3]
    assert class_counts(dataset, 3, "val").tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="example of class 2, and the dataset has 2"):
        class_counts(dataset, 2)


def test_class_counts_of_a_damaged_shard_are_refused(tmp_path: Path) -> None:
    shard = class_shard(tmp_path, 0, "train", [0, 1])
    dataset = dataclasses.replace(build_dataset(tmp_path / "empty", []), dir=tmp_path, dtype="uint32", shards=(shard,))
    path = tmp_path / "train-00000.tar"
    damaged = path.read_bytes().replace(np.uint32(501).tobytes(), np.uint32(502).tobytes(), 1)
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="damaged"):
        class_counts(dataset, 2)
