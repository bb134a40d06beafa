import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards.streams import StreamLayout, lay_streams, level_lengths

shard_counts = st.lists(st.one_of(st.integers(0, 12), st.integers(0, 400)), min_size=0, max_size=40)


def sequences_of(layout: StreamLayout) -> list[tuple[int, int]]:
    segments = zip(layout.shard.tolist(), layout.first.tolist(), layout.count.tolist(), strict=True)
    return [(shard, first + j) for shard, first, count in segments for j in range(count)]


@given(counts=shard_counts, streams=st.integers(1, 30))
def test_layout_any_shards_gives_level_streams_with_each_sequence_once(counts: list[int], streams: int) -> None:
    layout = lay_streams(np.array(counts, dtype=np.int64), streams)
    quotient, rest = divmod(sum(counts), streams)
    assert layout.lengths().tolist() == [quotient + 1] * rest + [quotient] * (streams - rest)
    assert sorted(sequences_of(layout)) == [(shard, j) for shard, count in enumerate(counts) for j in range(count)]


@given(counts=shard_counts, streams=st.integers(1, 30))
def test_layout_any_shards_cuts_fewer_times_than_there_are_streams(counts: list[int], streams: int) -> None:
    layout = lay_streams(np.array(counts, dtype=np.int64), streams)
    assert len(layout.shard) - np.count_nonzero(counts) < streams
    assert (layout.count > 0).all()


def test_layout_equal_shards_that_streams_divide_are_not_cut() -> None:
    layout = lay_streams(np.full(12, 7), 4)
    assert sorted(layout.shard.tolist()) == list(range(12))
    assert layout.count.tolist() == [7] * 12


def test_layout_unequal_shards_that_fit_longest_first_are_not_cut() -> None:
    layout = lay_streams(np.array([1, 5, 3, 4, 2]), 3)
    assert sorted(layout.shard.tolist()) == [0, 1, 2, 3, 4]
    assert layout.lengths().tolist() == [5, 5, 5]


def test_layout_one_shard_on_four_streams_is_cut_three_times() -> None:
    layout = lay_streams(np.array([10]), 4)
    assert layout.count.tolist() == [3, 3, 2, 2]
    assert sorted(layout.first.tolist()) in ([0, 3, 6, 8], [0, 3, 5, 8])


def test_level_lengths_fewer_sequences_than_streams_leaves_streams_empty() -> None:
    assert level_lengths(2, 4).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("streams", [1, 192])
def test_layout_of_200000_shards_stays_under_200_megabytes(streams: int) -> None:
    counts = np.random.default_rng(0).lognormal(8, 1, 200_000).astype(np.int64)
    tracemalloc.start()
    layout = lay_streams(counts, streams)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 200e6
    np.testing.assert_array_equal(layout.lengths(), level_lengths(int(counts.sum()), streams))
