import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.evaluation import evaluation_batches
from data_shards.loader import LoaderState, TrainLoader, train_order
from tests.data_shards.loader_dataset import build_dataset, shard_ids

T = 8
VAL = [30, 4, 9, 50]  # 3 + 0 + 1 + 6 sequences, in shards 1 to 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_dataset(tmp_path_factory.mktemp("data"), [40], VAL)


def expected_rows() -> list[list[int]]:
    return [
        shard_ids(number, tokens)[j * T : j * T + T + 1].tolist()
        for number, tokens in enumerate(VAL, start=1)
        for j in range((tokens - 1) // T)
    ]


@settings(deadline=None, max_examples=40)
@given(world=st.integers(1, 12), micro_batch=st.integers(1, 5), max_tokens=st.integers(0, 120))
def test_evaluation_any_ranks_give_the_first_sequences_once_in_level_batches(
    dataset: Dataset, world: int, micro_batch: int, max_tokens: int
) -> None:
    by_position: dict[int, list[int]] = {}
    batches_of_rank = set()
    for rank in range(world):
        batches = list(
            evaluation_batches(
                dataset, seq_len=T, rank=rank, world=world, micro_batch=micro_batch, max_tokens=max_tokens
            )
        )
        batches_of_rank.add(len(batches))
        assert {batch.tokens.shape for batch in batches} == {(micro_batch, T + 1)}
        assert not any(batch.tokens[~batch.real].any() for batch in batches)
        rows = [row for batch in batches for row in batch.tokens[batch.real].tolist()]
        by_position |= {rank + i * world: row for i, row in enumerate(rows)}
    count = min(10, max(1, max_tokens // T))
    assert [by_position[p] for p in range(count)] == expected_rows()[:count]
    assert len(by_position) == count
    assert len(batches_of_rank) == 1


def test_evaluation_with_documents_tells_their_places_in_each_row(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [40], [20, 12], documents=[0, 3, 8, 9, 16])
    batches = [
        batch
        for rank in range(2)
        for batch in evaluation_batches(
            dataset, seq_len=T, rank=rank, world=2, micro_batch=2, max_tokens=99, with_documents=True
        )
    ]
    # Rows [0, 8] and [8, 16] of the first shard and [0, 8] of the second: ranks 0, 1, 0.
    starts = [
        None if batch.document_starts is None else [s.tolist() for s in batch.document_starts] for batch in batches
    ]
    assert starts == [[[3, 8], [3, 8]], [[1, 8], []]]
    assert [batch.real.tolist() for batch in batches] == [[True, True], [True, False]]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_evaluation_beside_training_opens_half_of_the_files_that_a_process_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = build_dataset(tmp_path, [41] * 80, [41] * 80)
    order = train_order(dataset, seq_len=T, seed=1, streams=12, window=8, weights=None)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 100))
    before = open_files()
    loader = TrainLoader(dataset, order, seq_len=T, rank=0, world=1, micro_batch=8)
    assert loader.read(LoaderState(), 400).real.sum() == 400
    batches = evaluation_batches(dataset, seq_len=T, rank=0, world=1, micro_batch=8, max_tokens=400 * T)
    assert max(open_files() - before for batch in batches if batch.real.all()) == 50


def test_evaluation_damaged_validation_shard_is_refused_by_name(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [40], VAL)
    path = tmp_path / "val-00004.tar"
    data = bytearray(path.read_bytes())
    data[dataset.shards[4].blocks[1].token_offset] ^= 1
    path.write_bytes(data)
    batches = evaluation_batches(dataset, seq_len=T, rank=0, world=1, micro_batch=4, max_tokens=10**6)
    assert next(batches).document_starts is None
    with pytest.raises(DataError, match=r"Block 000001 of shard .*val-00004\.tar is damaged"):
        list(batches)


@pytest.mark.parametrize("val", [[], [8, 3]])
def test_evaluation_no_whole_sequence_is_refused_with_sizes(tmp_path: Path, val: list[int]) -> None:
    dataset = build_dataset(tmp_path, [40], val)
    with pytest.raises(DataError, match=f"no whole sequence: its largest shard holds {max(val, default=0)} tokens"):
        evaluation_batches(dataset, seq_len=T, rank=0, world=1, micro_batch=1, max_tokens=64)
