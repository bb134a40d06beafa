import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards.errors import DataError
from data_shards.loader import LoaderState, next_positions, rank_rows, rows_per_rank

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=6)


def state_without(spans: list[tuple[int, int]], consumed: int = 0) -> LoaderState:
    state = LoaderState(consumed=consumed)
    for start, length in spans:
        state = state.excluding(start, start + length)
    return state


@given(spans=ranges, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), consumed=st.integers(0, 30))
def test_next_positions_any_exclusions_serve_all_others_once_in_order(
    spans: list[tuple[int, int]], sizes: list[int], consumed: int
) -> None:
    state = state_without(spans, consumed)
    left_out = {position for start, length in spans for position in range(start, start + length)}
    taken: list[int] = []
    for size in sizes:
        positions, state = next_positions(state, size)
        assert len(positions) == size
        taken += positions.tolist()
    assert taken == [position for position in range(consumed, state.consumed) if position not in left_out]


@given(
    spans=ranges,
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    killed_at=st.integers(0, 12),
)
def test_next_positions_resumed_from_json_equal_no_interruption(
    spans: list[tuple[int, int]], sizes: list[int], killed_at: int
) -> None:
    straight = resumed = state_without(spans)
    for step, size in enumerate(sizes):
        if step == killed_at:
            resumed = LoaderState.from_dict(json.loads(json.dumps(resumed.to_dict())))
        expected, straight = next_positions(straight, size)
        found, resumed = next_positions(resumed, size)
        assert found.tolist() == expected.tolist()
    assert resumed == straight


def test_next_positions_batch_history_records_changes_alone() -> None:
    state = LoaderState()
    for size in (4, 4, 6, 6, 4):
        _, state = next_positions(state, size)
    assert state.batches == ((0, 4), (8, 6), (20, 4))
    assert state.consumed == 24


def test_excluding_overlapping_and_touching_ranges_merges_them() -> None:
    state = LoaderState().excluding(8, 12).excluding(0, 4).excluding(4, 6).excluding(10, 20).excluding(11, 13)
    assert state.excluded == ((0, 6), (8, 20))


def test_from_dict_of_another_version_is_refused() -> None:
    with pytest.raises(DataError, match="loader state has version 2 and this program reads version 1"):
        LoaderState.from_dict({**LoaderState().to_dict(), "version": 2})


@given(
    spans=ranges, size=st.integers(1, 24), consumed=st.integers(0, 30), world=st.integers(1, 9), micro=st.integers(1, 5)
)
def test_rank_rows_any_world_partitions_the_step_into_level_ranks(
    spans: list[tuple[int, int]], size: int, consumed: int, world: int, micro: int
) -> None:
    positions, _ = next_positions(state_without(spans, consumed), size)
    rows = [rank_rows(positions, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(rows).tolist()) == positions.tolist()
    lengths = {len(row) for row in rows}
    assert max(lengths) - min(lengths) <= 1
    padded = rows_per_rank(size, world, micro)
    assert padded % micro == 0
    assert max(lengths) <= padded < max(lengths) + micro


@given(start=st.integers(0, 10**12), size=st.integers(1, 24), world=st.integers(1, 9))
def test_rank_rows_position_p_falls_to_rank_p_mod_world(start: int, size: int, world: int) -> None:
    positions = np.arange(start, start + size)
    for rank in range(world):
        assert rank_rows(positions, rank, world).tolist() == [p for p in positions.tolist() if p % world == rank]
