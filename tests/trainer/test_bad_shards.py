from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.loader import LoaderState, StepBatch, TrainLoader, train_order
from tests.data_shards.loader_dataset import build_dataset
from trainer import bad_shards
from trainer.bad_shards import read_or_skip

T, BATCH = 8, 6
CPU = torch.device("cpu")
Record = Mapping[str, Any]


class Ranks:
    """Threads that stand for ranks, and what they tell each other."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.reduced = 0
        self._barrier = threading.Barrier(world, timeout=20)
        self._said: dict[int, Any] = {}
        self._rank = threading.local()

    def run(self, of_rank: Callable[[int], Any]) -> list[Any]:
        def as_rank(rank: int) -> Any:
            self._rank.number = rank
            return of_rank(rank)

        with ThreadPoolExecutor(self.world) as threads:
            return [future.result() for future in [threads.submit(as_rank, rank) for rank in range(self.world)]]

    def gather_to_all(self, value: Any) -> list[Any]:
        self._said[self._rank.number] = value
        self._barrier.wait()
        said = [self._said[rank] for rank in range(self.world)]
        self._barrier.wait()
        return said

    def reduce_sum(self, values: list[float], device: torch.device) -> list[float]:
        self.reduced += self._rank.number == 0
        return [sum(column) for column in zip(*self.gather_to_all(values), strict=True)]


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Ranks:
    ranks = Ranks(request.param)
    monkeypatch.setattr(bad_shards, "gather_to_all", ranks.gather_to_all)
    monkeypatch.setattr(bad_shards, "reduce_sum", ranks.reduce_sum)
    return ranks


def make_loader(dataset: Dataset, rank: int, world: int) -> TrainLoader:
    order = train_order(dataset, seq_len=T, seed=5, streams=12, window=2, weights=None)
    return TrainLoader(dataset, order, seq_len=T, rank=rank, world=world, micro_batch=1, on_bad_shard="skip")


def read_steps(ranks: Ranks, dataset: Dataset, steps: int) -> tuple[list[list[StepBatch]], list[list[Record]]]:
    """Each rank's batches and events."""
    events: list[list[Record]] = [[] for _ in range(ranks.world)]

    def of_rank(rank: int) -> list[StepBatch]:
        loader, state, batches = make_loader(dataset, rank, ranks.world), LoaderState(), []
        for _ in range(steps):
            batches.append(read_or_skip(loader, state, BATCH, events[rank].append, CPU))
            state = batches[-1].state_after
        return batches

    return ranks.run(of_rank), events


def shards_of(batches: Sequence[StepBatch]) -> set[int]:
    return {first // 1000 for batch in batches for first in batch.tokens[batch.real][:, 0].tolist()}


@pytest.mark.parametrize("ranks", [1, 2, 3], indirect=True)
def test_read_or_skip_of_a_missing_shard_leaves_out_the_same_positions_on_all_ranks(
    ranks: Ranks, tmp_path: Path
) -> None:
    dataset = build_dataset(tmp_path, [90, 133, 41])  # 11 + 16 + 5 sequences
    (tmp_path / "train-00001.tar").unlink()
    of_rank, events = read_steps(ranks, dataset, steps=4)
    assert shards_of([batch for batches in of_rank for batch in batches]) == {0, 2}
    for step in zip(*of_rank, strict=True):
        assert len({(batch.sequence_hash, batch.state_after) for batch in step}) == 1
        assert sum(int(batch.real.sum()) for batch in step) == BATCH
    assert all(told == events[0] for told in events)
    state = of_rank[0][-1].state_after
    left_out = [(event["start"], event["end"]) for event in events[0]]
    assert sum(end - start for start, end in state.excluded) == len(left_out) > 8
    assert {p for start, end in state.excluded for p in range(start, end)} == {start for start, _ in left_out}
    assert state.consumed == 4 * BATCH + len(left_out)
    assert {(event["event"], event["shard"]) for event in events[0]} == {("excluded", "train-00001.tar")}
    assert all("train-00001.tar cannot be read (No such file" in event["reason"] for event in events[0])


@pytest.mark.parametrize("ranks", [2], indirect=True)
def test_read_or_skip_of_a_whole_dataset_asks_once_a_step_and_reads_as_ever(ranks: Ranks, tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [90, 133])
    of_rank, events = read_steps(ranks, dataset, steps=3)
    assert ranks.reduced == 3
    assert events == [[], []]
    for rank, batches in enumerate(of_rank):
        loader, state = make_loader(dataset, rank, 2), LoaderState()
        for batch in batches:
            expected = loader.read(state, BATCH)
            state = expected.state_after
            assert batch.tokens.tolist() == expected.tokens.tolist()
            assert batch.state_after == state


@pytest.mark.parametrize("ranks", [2], indirect=True)
def test_read_or_skip_with_nothing_left_to_read_is_refused_on_all_ranks(ranks: Ranks, tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [90, 133])
    for shard in dataset.shards:
        (tmp_path / shard.path).unlink()

    def of_rank(rank: int) -> str:
        with pytest.raises(DataError) as caught:
            read_or_skip(make_loader(dataset, rank, 2), LoaderState(), BATCH, lambda record: None, CPU)
        return str(caught.value)

    for message in ranks.run(of_rank):
        assert "data.on_bad_shard: skip" in message
        assert "after 100 tries none made a whole batch" in message
        assert "cannot be read (No such file or directory)" in message
