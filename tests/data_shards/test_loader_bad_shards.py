import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data_shards import loader as loader_module
from data_shards.dataset import Dataset
from data_shards.errors import DataError, StoreError
from data_shards.loader import LoaderState, TrainLoader, train_order
from data_shards.manifest import Shard
from tests.data_shards.loader_dataset import build_dataset

T, BATCH = 8, 6


def make_loader(dataset: Dataset, rank: int = 0, world: int = 1, **changes: object) -> TrainLoader:
    order = train_order(dataset, seq_len=T, seed=5, streams=12, window=2, weights=None)
    options: dict[str, object] = {"on_bad_shard": "skip", **changes}
    return TrainLoader(dataset, order, seq_len=T, rank=rank, world=world, micro_batch=1, **options)  # type: ignore[arg-type]


def flip(dataset: Dataset, shard: int, block: int) -> None:
    path = dataset.shard_path(dataset.shards[shard])
    data = bytearray(path.read_bytes())
    data[dataset.shards[shard].blocks[block].token_offset] ^= 1
    path.write_bytes(data)


def read_agreed(loaders: Sequence[TrainLoader], state: LoaderState) -> tuple[list[list[int]], LoaderState]:
    """The rows of a step that all ranks read, as `read_or_skip` goes about it."""
    while True:
        answers = [loader.try_read(state, BATCH) for loader in loaders]
        for _, failures in answers:
            for failure in failures:
                state = state.excluding(failure.position, failure.position + 1)
        batches = [batch for batch, _ in answers if batch is not None]
        if not any(failures for _, failures in answers):
            assert len({batch.state_after for batch in batches}) == 1
            return [row for batch in batches for row in batch.tokens[batch.real].tolist()], batches[0].state_after


def test_try_read_of_a_whole_dataset_is_what_read_gives(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [90, 133])
    batch, failures = make_loader(dataset).try_read(LoaderState(), BATCH)
    expected = make_loader(dataset).read(LoaderState(), BATCH)
    assert failures == ()
    assert batch is not None
    np.testing.assert_array_equal(batch.tokens, expected.tokens)
    assert (batch.sequence_hash, batch.state_after) == (expected.sequence_hash, expected.state_after)


def test_try_read_damaged_block_names_just_the_positions_that_need_it(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [90, 133], block_tokens=20)
    flip(dataset, shard=1, block=2)  # tokens 40 to 59
    loader = make_loader(dataset)
    shards, firsts = loader._order.locate(np.arange(27))
    expected = np.flatnonzero((shards == 1) & (firsts + T >= 40) & (firsts < 60)).tolist()
    batch, failures = loader.try_read(LoaderState(), 27)
    assert batch is None
    assert [failure.position for failure in failures] == expected != []
    assert {failure.shard for failure in failures} == {"train-00001.tar"}
    assert all("Block 000002 of shard" in failure.reason for failure in failures)


@pytest.mark.parametrize("worlds", [[1, 1, 1, 1], [2, 2, 2, 2], [4, 1, 3, 2]])
def test_loader_skipping_a_missing_and_a_cut_shard_serves_the_rest_once_on_any_ranks(
    tmp_path: Path, worlds: list[int]
) -> None:
    dataset = build_dataset(tmp_path, [90, 133, 41, 260])  # 11 + 16 + 5 + 32 sequences
    (tmp_path / "train-00001.tar").unlink()
    (tmp_path / "train-00002.tar").write_bytes(b"cut")
    state, rows = LoaderState(), []
    for world in worlds:  # as if killed and resumed before each step
        state = LoaderState.from_dict(state.to_dict())
        of_step, state = read_agreed([make_loader(dataset, rank, world) for rank in range(world)], state)
        assert len(of_step) == BATCH
        rows += of_step
    firsts = [row[0] for row in rows]
    assert len(set(firsts)) == len(worlds) * BATCH
    assert {first // 1000 for first in firsts} == {0, 3}
    excluded = sum(end - start for start, end in state.excluded)
    assert state.consumed == len(rows) + excluded


def test_loader_that_fails_refuses_a_missing_shard_and_one_that_skips_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = build_dataset(tmp_path, [30] * 9)
    for number in range(7):
        (tmp_path / f"train-{number:05d}.tar").unlink()
    with pytest.raises(DataError, match=r"train-00000\.tar cannot be read"):
        make_loader(dataset, on_bad_shard="fail")
    with caplog.at_level(logging.WARNING):
        for rank in range(2):
            make_loader(dataset, rank, 2)
    messages = [record.getMessage() for record in caplog.records]
    assert [message for message in messages if "train-00004.tar cannot be read" in message]
    assert "headrace data verify" in messages[5]
    assert len(messages) == 6  # five shards by name, from one rank


def test_loader_that_skips_still_refuses_a_missing_held_out_shard(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [30], [30])
    (tmp_path / "val-00001.tar").unlink()
    with pytest.raises(DataError, match=r"val-00001\.tar cannot be read"):
        make_loader(dataset)


def test_upcoming_shards_are_those_that_the_steps_open_in_that_order(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [41] * 30)
    state = LoaderState(consumed=7).excluding(20, 24)
    for rank in range(3):
        upcoming = make_loader(dataset, rank, 3).upcoming(state, BATCH, 5)
        loader, seen, now = make_loader(dataset, rank, 3), [], state
        for _ in range(5):
            batch = loader.read(now, BATCH)
            now = batch.state_after
            seen += [first // 1000 for first in batch.tokens[batch.real][:, 0].tolist()]
        assert upcoming == list(dict.fromkeys(seen))


def test_loader_tells_ahead_what_it_will_open_before_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "_AHEAD_POSITIONS", 4 * BATCH)
    dataset = build_dataset(tmp_path, [41] * 40)  # 200 sequences
    told: list[list[str]] = []
    loader = make_loader(dataset, ahead=lambda shards: told.append([shard.path for shard in shards]))
    state, calls = LoaderState(), []
    for _ in range(12):
        before = [loader._reader.is_open(number) for number in range(40)]
        batch = loader.read(state, BATCH)
        for number, first in enumerate(batch.tokens[:, 0] // 1000):
            path = f"train-{int(first):05d}.tar"
            assert before[int(first)] or any(path in shards for shards in told), number
        state = batch.state_after
        calls.append(len(told))
    assert calls == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert all(len(set(shards)) == len(shards) for shards in told)
    assert not set(told[-1]) & set(told[0])  # what is open is not told again


def test_loader_ahead_is_told_shards_of_the_manifest(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [41] * 3)
    told: list[Shard] = []
    make_loader(dataset, ahead=told.extend).read(LoaderState(), BATCH)
    assert set(told) == set(dataset.split("train"))


def test_try_read_while_the_store_is_away_leaves_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make_loader(build_dataset(tmp_path, [90, 133]))

    def is_away(shard: Shard) -> Path:
        raise StoreError(f"{shard.path}: the store did not answer")

    monkeypatch.setattr(loader._reader, "_path_of", is_away)
    with pytest.raises(StoreError, match="the store did not answer"):
        loader.try_read(LoaderState(), BATCH)
