from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_shards.balance as balance_module
from data_shards.balance import balance, max_over_mean
from data_shards.errors import DataError
from data_shards.order import Order


def make_order(
    tokens: list[int], *, streams: int = 12, seq_len: int = 4, weights: Mapping[str, float] | None = None, seed: int = 0
) -> Order:
    return Order(
        tokens,
        ["ab"[number % 2] for number in range(len(tokens))],
        seq_len=seq_len,
        seed=seed,
        streams=streams,
        window=3,
        weights=weights,
        fingerprint="f",
    )


def opened(order: Order, positions: range, world: int) -> list[set[int]]:
    """Shards that each rank opens, one position after the other."""
    found: list[set[int]] = [set() for _ in range(world)]
    for position in positions:
        shard, _ = order.locate(np.array([position]))
        found[position % world].add(int(shard[0]))
    return found


SHARDS = st.lists(st.integers(0, 60), min_size=2, max_size=12).map(lambda sizes: [9, 9, *sizes])
WEIGHTS = st.sampled_from([None, {"a": 0.7, "b": 0.3}])


@settings(max_examples=60, deadline=None)
@given(SHARDS, st.integers(1, 9), st.sampled_from([1, 4, 12]), WEIGHTS)
def test_loads_are_those_of_positions_one_by_one(
    tokens: list[int], world: int, streams: int, weights: Mapping[str, float] | None
) -> None:
    order = make_order(tokens, streams=streams, weights=weights)
    found = balance(order, tokens, world)
    positions = range(order.sequences_per_epoch)
    assert found.load.is_exact
    assert found.load.tokens.tolist() == [4 * len(positions[rank::world]) for rank in range(world)]
    assert found.load.shards.tolist() == [len(shards) for shards in opened(order, positions, world)]
    assert found.loss is None


@settings(max_examples=60, deadline=None)
@given(SHARDS, st.integers(2, 9), st.integers(1, 8), st.sampled_from([1, 4, 12]), WEIGHTS)
def test_loss_is_that_of_positions_one_by_one(
    tokens: list[int], world: int, lost: int, streams: int, weights: Mapping[str, float] | None
) -> None:
    lost = min(lost, world - 1)
    left = world - lost
    order = make_order(tokens, streams=streams, weights=weights)
    loss = balance(order, tokens, world, lost).loss
    assert loss is not None
    rest = range(loss.position, order.sequences_per_epoch)
    before, after = opened(order, range(rest.stop), world), opened(order, rest, left)
    assert loss.position == order.sequences_per_epoch // 2
    assert loss.load.tokens.tolist() == [4 * sum(p % left == rank for p in rest) for rank in range(left)]
    assert loss.load.shards.tolist() == [len(shards) for shards in after]
    assert loss.moved_share == pytest.approx(sum(p % world != p % left for p in rest) / len(rest))
    assert loss.least_moved_share == pytest.approx(sum(p % world >= left for p in rest) / len(rest))
    assert loss.extra_shards == sum(len(after[rank] - before[rank]) for rank in range(left))
    assert loss.extra_is_exact


@settings(max_examples=30, deadline=None)
@given(SHARDS, st.integers(1, 9), WEIGHTS)
def test_long_epoch_has_bounds_of_the_shards_opened(
    tokens: list[int], world: int, weights: Mapping[str, float] | None
) -> None:
    order = make_order(tokens, weights=weights)
    exact = balance(order, tokens, world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(balance_module, "LOOKED_UP", 0)
        found, after_loss = balance(order, tokens, world), balance(order, tokens, world + 1, 1).loss
    assert after_loss is not None and not after_loss.extra_is_exact
    assert found.load.tokens.tolist() == exact.load.tokens.tolist()
    assert (found.load.shards >= exact.load.shards).all()
    assert found.load.is_exact == (weights is None and 12 % world == 0)
    if found.load.is_exact:
        assert found.load.shards.tolist() == exact.load.shards.tolist()


def test_whole_shards_in_turn_and_longest_first_are_told_beside() -> None:
    tokens = [41, 21, 9, 9, 33, 5]  # 10, 5, 2, 2, 8 and 1 sequences
    found = balance(make_order(tokens), tokens, 2)
    assert found.round_robin == (10 + 2 + 8) / 14
    assert found.longest_first == (8 + 5 + 1) / 14
    assert found.sequences == 28
    assert max_over_mean(found.load.tokens) == 1


@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize("world", [8, 64])
def test_ranks_are_level_on_log_normal_shards_before_and_after_a_loss(sigma: float, world: int) -> None:
    for seed in range(20):
        tokens = (np.random.default_rng(seed).lognormal(0, sigma, 2 * world) * 500_000 * 8 / world).astype(int).tolist()
        lost = 1 if seed == 0 else 0
        found = balance(make_order(tokens, streams=192, seq_len=16, seed=seed), tokens, world, lost)
        assert max_over_mean(found.load.tokens) <= 1.001
        assert found.round_robin > 1.1
        assert found.loss is None or max_over_mean(found.loss.load.tokens) <= 1.001


def test_a_world_that_divides_the_streams_opens_each_shard_few_times() -> None:
    tokens = np.random.default_rng(0).integers(500, 9000, 500).tolist()
    found = balance(make_order(tokens, streams=192, seq_len=16), tokens, 8)
    assert int(found.load.shards.sum()) < 500 + 192
    assert balance(make_order(tokens, streams=192, seq_len=16), tokens, 7).load.shards.tolist() == [500] * 7


@pytest.mark.parametrize(
    ("world", "lost", "message"),
    [(0, 0, "--world: must be at least 1, found 0"), (4, 4, "--lose: .* 4, .*found 4"), (4, -1, "found -1")],
)
def test_impossible_world_is_refused(world: int, lost: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        balance(make_order([30, 30]), [30, 30], world, lost)
