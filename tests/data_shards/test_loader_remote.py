"""Training batches from a dataset in an object store: the same as from a folder, through the node's copies."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_shards import shard_cache
from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.evaluation import evaluation_batches
from data_shards.loader import LoaderState, StepBatch, TrainLoader, train_order
from data_shards.object_folder import ObjectFolder
from data_shards.shard_cache import CachePlace
from data_shards.stats import unigram_loss
from tests.data_shards.corpora import prepare_lines, write_lines
from tests.data_shards.remote import memory_address

SEQ_LEN, BATCH, STEPS = 16, 8, 12


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_cache, "RETRY_WAITS_SECONDS", (0.0,))


@pytest.fixture
def near(tmp_path: Path) -> Dataset:
    write_lines(tmp_path / "corpus/a.txt", range(150))
    return prepare_lines(tmp_path, tmp_path / "d")


@pytest.fixture
def far(near: Dataset, tmp_path: Path) -> Dataset:
    """The same dataset in a store."""
    made = prepare_lines(tmp_path, memory_address())
    assert made.fingerprint == near.fingerprint
    return Dataset.open(made.dir, None, CachePlace(str(tmp_path / "cache")))


def loader_of(dataset: Dataset, rank: int = 0, world: int = 1, **options: Any) -> TrainLoader:
    order = train_order(dataset, seq_len=SEQ_LEN, seed=1, streams=4, window=2, weights=None)
    return TrainLoader(
        dataset, order, seq_len=SEQ_LEN, rank=rank, world=world, micro_batch=2, ahead=dataset.ahead, **options
    )


def batches(loader: TrainLoader) -> Iterator[StepBatch]:
    state = LoaderState()
    for _ in range(STEPS):
        batch = loader.read(state, BATCH)
        state = batch.state_after
        yield batch


def downloads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """(name, whether the main thread waits for it) of all downloads from now on."""
    real, seen = ObjectFolder.download, []

    def download(self: ObjectFolder, name: str, to: Path) -> bool:
        seen.append((name, threading.current_thread() is threading.main_thread()))
        return real(self, name, to)

    monkeypatch.setattr(ObjectFolder, "download", download)
    return seen


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("room", [50 << 30, 12_000])
def test_loader_remote_gives_the_batches_of_the_local_one_on_two_ranks(
    near: Dataset, far: Dataset, tmp_path: Path, room: int
) -> None:
    shared = CachePlace(str(tmp_path / "cache"), room)
    ranks = [Dataset.open(far.dir, None, shared) for _ in range(2)]
    for rank, dataset in enumerate(ranks):
        pairs = zip(batches(loader_of(near, rank, 2)), batches(loader_of(dataset, rank, 2)), strict=True)
        for here, there in pairs:
            assert here.sequence_hash == there.sequence_hash
            assert np.array_equal(here.tokens, there.tokens)


def test_loader_remote_evaluation_and_unigram_are_the_local_ones(near: Dataset, far: Dataset) -> None:
    options = {"seq_len": SEQ_LEN, "rank": 0, "world": 1, "micro_batch": 2, "max_tokens": 2000}
    pairs = zip(evaluation_batches(near, **options), evaluation_batches(far, **options), strict=True)
    for here, there in pairs:
        assert np.array_equal(here.tokens, there.tokens)
    labels = np.arange(50)
    assert unigram_loss(far, labels) == unigram_loss(near, labels)


def test_loader_remote_shards_are_there_before_they_are_needed(
    far: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, loader = downloads(monkeypatch), loader_of(far)
    assert seen == []  # sizes are looked at by listing
    first = loader.read(LoaderState(), BATCH)
    names = {shard.path for shard in far.split("train")}
    wait_until(
        lambda: {name for name, _ in seen} == names and len(list((tmp_path / "cache").glob("*.tar"))) == len(names)
    )
    waited = [name for name, is_waited_for in seen if is_waited_for]
    assert len(waited) <= len(np.unique(loader.upcoming(LoaderState(), BATCH, 1)))
    state = first.state_after
    for _ in range(STEPS):
        state = loader.read(state, BATCH).state_after
    assert [name for name, is_waited_for in seen if is_waited_for] == waited
    assert len(seen) == len(names)


def test_loader_remote_missing_shard_is_refused_at_the_start_without_a_download(
    far: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    far.folder.remove("train-00001.tar")
    seen = downloads(monkeypatch)
    with pytest.raises(DataError, match=r"Shard memory://.*/train-00001\.tar cannot be read \(no such file\)"):
        loader_of(far)
    assert seen == []


def test_loader_remote_damaged_shard_fails_or_is_told_by_position(far: Dataset) -> None:
    shard = far.split("train")[1]
    data = bytearray(far.folder.read(shard.path) or b"")
    data[shard.blocks[0].token_offset] ^= 1
    far.folder.write(shard.path, bytes(data))
    with pytest.raises(DataError, match=rf"Shard memory://.*/{shard.path} is damaged"):
        list(batches(loader_of(far)))
    failed = set()
    loader, state = loader_of(far, on_bad_shard="skip"), LoaderState()
    for _ in range(STEPS):
        batch, unreadable = loader.try_read(state, BATCH)
        for place in unreadable:
            failed.add(place.shard)
            state = state.excluding(place.position, place.position + 1)
        state = batch.state_after if batch is not None else state
    assert failed == {shard.path}
