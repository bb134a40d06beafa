from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.evaluation import evaluation_batches, evaluation_labels
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
        assert {tokens.shape for tokens, _ in batches} == {(micro_batch, T + 1)}
        assert not any(tokens[~real].any() for tokens, real in batches)
        rows = [row for tokens, real in batches for row in tokens[real].tolist()]
        by_position |= {rank + i * world: row for i, row in enumerate(rows)}
    count = min(10, max(1, max_tokens // T))
    assert [by_position[p] for p in range(count)] == expected_rows()[:count]
    assert len(by_position) == count
    assert len(batches_of_rank) == 1


@pytest.mark.parametrize(("max_tokens", "count"), [(0, 1), (T, 1), (5 * T + 3, 5), (10**6, 10)])
def test_evaluation_labels_are_those_of_the_sequences_evaluated(dataset: Dataset, max_tokens: int, count: int) -> None:
    labels = evaluation_labels(dataset, T, max_tokens)
    np.testing.assert_array_equal(labels, np.array(expected_rows())[:count, 1:].reshape(-1))


@pytest.mark.parametrize("val", [[], [8, 3]])
def test_evaluation_no_whole_sequence_is_refused_with_sizes(tmp_path: Path, val: list[int]) -> None:
    dataset = build_dataset(tmp_path, [40], val)
    with pytest.raises(DataError, match=f"no whole sequence: its largest shard holds {max(val, default=0)} tokens"):
        evaluation_batches(dataset, seq_len=T, rank=0, world=1, micro_batch=1, max_tokens=64)
