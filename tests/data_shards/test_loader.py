import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards import shard_reader
from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.loader import LoaderState, TrainLoader, rows_per_rank, train_order
from data_shards.shard_reader import check_sizes
from tests.data_shards.loader_dataset import build_dataset, shard_ids

T = 8


def make_loader(
    dataset: Dataset, *, rank: int = 0, world: int = 1, micro_batch: int = 1, weights: dict[str, float] | None = None
) -> TrainLoader:
    order = train_order(dataset, seq_len=T, seed=5, streams=24, window=2, weights=weights)
    return TrainLoader(dataset, order, seq_len=T, rank=rank, world=world, micro_batch=micro_batch)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_dataset(
        tmp_path_factory.mktemp("data"), [90, 5, 133, 41, 260], [30], sources=["a", "a", "b", "b", "a"]
    )


def read_step(
    dataset: Dataset, state: LoaderState, batch: int, world: int, micro_batch: int = 1, weighted: bool = False
) -> tuple[dict[int, list[int]], str, LoaderState]:
    """The step's tokens by row of the global batch, its hash, and the state after it, read by all of `world` ranks."""
    weights = {"a": 0.3, "b": 0.7} if weighted else None
    loaders = [
        make_loader(dataset, rank=r, world=world, micro_batch=micro_batch, weights=weights) for r in range(world)
    ]
    parts = [loader.read(state, batch) for loader in loaders]
    assert {part.tokens.shape for part in parts} == {(rows_per_rank(batch, world, micro_batch), T + 1)}
    assert {part.tokens_real for part in parts} == {batch * T}
    assert len({part.sequence_hash for part in parts}) == len({part.state_after for part in parts}) == 1
    rows: dict[int, list[int]] = {}
    for rank, part in enumerate(parts):
        assert not part.tokens[~part.real].any()
        first = (rank - state.consumed) % world
        rows |= {first + i * world: row for i, row in enumerate(part.tokens[part.real].tolist())}
    return rows, parts[0].sequence_hash, parts[0].state_after


def read_run(
    dataset: Dataset, worlds: list[int], batch: int, weighted: bool = False
) -> Iterator[tuple[dict[int, list[int]], str]]:
    """One step for each entry of `worlds`, on so many ranks, as if killed and resumed before each."""
    state = LoaderState()
    for world in worlds:
        rows, name, state = read_step(dataset, LoaderState.from_dict(state.to_dict()), batch, world, 2, weighted)
        yield rows, name


def test_loader_one_epoch_reads_every_sequence_of_every_shard_once(dataset: Dataset) -> None:
    count = 11 + 0 + 16 + 5 + 32
    batch = make_loader(dataset).read(LoaderState(), count)
    expected = [
        shard_ids(number, tokens)[j * T : j * T + T + 1].tolist()
        for number, tokens in enumerate([90, 5, 133, 41, 260])
        for j in range((tokens - 1) // T)
    ]
    assert sorted(batch.tokens.tolist()) == sorted(expected)
    assert batch.tokens.dtype == np.int64
    assert batch.real.all()


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 20), micro_batch=st.integers(1, 5), start=st.integers(0, 500), weighted=st.booleans())
def test_loader_any_batch_is_the_same_on_1_2_3_4_and_8_ranks(
    dataset: Dataset, batch: int, micro_batch: int, start: int, weighted: bool
) -> None:
    state = LoaderState(consumed=start)
    one = read_step(dataset, state, batch, 1, 1, weighted)
    assert sorted(one[0]) == list(range(batch))
    for world in (2, 3, 4, 8):
        assert read_step(dataset, state, batch, world, micro_batch, weighted) == one


@settings(max_examples=15, deadline=None)
@given(
    worlds=st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=1, max_size=6),
    batch=st.integers(1, 12),
    weighted=st.booleans(),
)
def test_loader_killed_and_resumed_on_any_ranks_equals_no_interruption(
    dataset: Dataset, worlds: list[int], batch: int, weighted: bool
) -> None:
    straight = list(read_run(dataset, [1] * len(worlds), batch, weighted))
    assert list(read_run(dataset, worlds, batch, weighted)) == straight


@settings(max_examples=15, deadline=None)
@given(
    tokens=st.lists(st.integers(1, 90), min_size=1, max_size=6).filter(lambda tokens: max(tokens) > T),
    block_tokens=st.integers(1, 40),
    dtype=st.sampled_from(["uint16", "uint32"]),
    start=st.integers(0, 200),
)
def test_loader_any_shards_and_blocks_give_the_tokens_that_the_order_names(
    tokens: list[int], block_tokens: int, dtype: str, start: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = build_dataset(Path(folder), tokens, block_tokens=block_tokens, dtype=dtype)
        order = train_order(dataset, seq_len=T, seed=5, streams=24, window=2, weights=None)
        shards, firsts = order.locate(np.arange(start, start + 30))
        batch = make_loader(dataset).read(LoaderState(consumed=start), 30)
    for row, shard, first in zip(batch.tokens, shards.tolist(), firsts.tolist(), strict=True):
        np.testing.assert_array_equal(row, shard_ids(shard, tokens[shard])[first : first + T + 1])


def test_loader_fewer_rows_than_ranks_pads_whole_ranks(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [20])
    parts = [make_loader(dataset, rank=r, world=4, micro_batch=2).read(LoaderState(), 2) for r in range(4)]
    assert [part.real.tolist() for part in parts] == [[True, False], [True, False], [False, False], [False, False]]
    assert not parts[3].tokens.any()
    assert {part.tokens_real for part in parts} == {2 * T}


def test_loader_excluded_positions_are_left_out_and_others_come_once(dataset: Dataset) -> None:
    plain = make_loader(dataset).read(LoaderState(), 20).tokens.tolist()
    state = LoaderState().excluding(3, 9)
    found: dict[int, list[int]] = {}
    for _ in range(2):
        rows, _, after = read_step(dataset, state, 7, 3)
        found |= {len(found) + row: tokens for row, tokens in rows.items()}
        state = after
    assert [found[i] for i in range(14)] == plain[:3] + plain[9:20]


def test_loader_hash_names_content_and_not_the_place_in_the_manifest(tmp_path: Path) -> None:
    small = build_dataset(tmp_path, [20, 90])
    other = dataclasses.replace(small, shards=(dataclasses.replace(small.shards[0], sha256="f" * 64), small.shards[1]))
    states = LoaderState()
    names = [make_loader(data).read(states, 13).sequence_hash for data in (small, small, other)]
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == 16


def test_loader_order_of_another_sequence_length_is_refused(dataset: Dataset) -> None:
    order = train_order(dataset, seq_len=T, seed=5, streams=24, window=2, weights=None)
    with pytest.raises(ValueError, match="seq_len is 4, but the order was made for 8"):
        TrainLoader(dataset, order, seq_len=4, rank=0, world=1, micro_batch=1)


def test_loader_more_shards_than_open_maps_reads_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_reader, "_MOST_OPEN", 2)
    dataset = build_dataset(tmp_path, [41] * 6)
    loader = make_loader(dataset)
    tokens = loader.read(LoaderState(), 30).tokens
    assert sorted(tokens[:, 0].tolist()) == [number * 1000 + j * T for number in range(6) for j in range(5)]
    assert len(loader._reader._open) == 2


def test_loader_missing_shard_is_refused_at_once_by_name(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [20, 30])
    size = dataset.shards[1].bytes
    (tmp_path / "train-00001.tar").unlink()
    with pytest.raises(DataError, match=rf"train-00001.tar cannot be read \(No such file.*manifest says {size} bytes"):
        make_loader(dataset)


def test_check_sizes_cut_validation_shard_is_refused_with_both_sizes(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [20], [30])
    path = tmp_path / "val-00001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    size = dataset.shards[1].bytes
    with pytest.raises(DataError, match=f"val-00001.tar has {size - 512} bytes and the manifest says {size}"):
        check_sizes(dataset)


def test_loader_flipped_bit_is_refused_naming_shard_and_block(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [50, 90])
    flip_bit(dataset, shard=1, block=4)
    with pytest.raises(DataError, match=r"Block 000004 of shard .*train-00001\.tar is damaged: its tokens have the"):
        make_loader(dataset).read(LoaderState(), 17)


def test_loader_block_is_proved_once_and_only_when_touched(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [50], block_tokens=T + 1)
    loader = make_loader(dataset)
    first = loader.read(LoaderState(), 6)
    flip_bit(dataset, shard=0, block=2)
    again = loader.read(LoaderState(), 6)  # the map shows the flip; the proof was made before
    assert np.count_nonzero(first.tokens != again.tokens) in (1, 2)
    with pytest.raises(DataError, match="Block 000002"):
        make_loader(dataset).read(LoaderState(), 6)


def flip_bit(dataset: Dataset, *, shard: int, block: int) -> None:
    path = dataset.dir / dataset.shards[shard].path
    with path.open("r+b") as file:
        file.seek(dataset.shards[shard].blocks[block].token_offset)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
