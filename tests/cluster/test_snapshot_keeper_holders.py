from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cluster.snapshot_keeper_holders import choose_holders, common_steps, newest_of_other_sizes

NODES = st.sets(st.sampled_from("abcdefg"), min_size=1).map(sorted)


@st.composite
def placements(draw: st.DrawFn) -> tuple[dict[int, str], list[str]]:
    nodes = draw(NODES)
    placed = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=20))
    return dict(enumerate(placed)), nodes


@given(placements())
def test_holders_are_other_nodes_and_level(placement: tuple[dict[int, str], list[str]]) -> None:
    node_of_rank, nodes = placement
    holders = choose_holders(node_of_rank, nodes)
    assert set(holders) == (set(node_of_rank) if len(nodes) > 1 else set())
    assert all(holders[rank] != node_of_rank[rank] and holders[rank] in nodes for rank in holders)
    most = max((list(holders.values()).count(node) for node in nodes), default=0)
    assert most <= math.ceil(len(node_of_rank) / max(1, len(nodes) - 1))


@given(placements(), st.randoms())
def test_holders_do_not_depend_on_who_asks(placement: tuple[dict[int, str], list[str]], random: object) -> None:
    node_of_rank, nodes = placement
    shuffled = list(node_of_rank.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose_holders(dict(shuffled), reversed(nodes)) == choose_holders(node_of_rank, nodes)


HELD = st.dictionaries(st.integers(0, 2), st.lists(st.integers(1, 9), max_size=3), max_size=3)


@given(st.integers(1, 3), st.lists(HELD, max_size=4), st.integers(1, 3))
def test_common_steps_are_the_newest_that_somebody_holds_of_each_rank(
    world_size: int, held: list[dict[int, list[int]]], most: int
) -> None:
    whole = [step for step in range(10) if all(any(step in one.get(r, ()) for one in held) for r in range(world_size))]
    assert common_steps(world_size, held, most) == whole[-most:]


def test_newest_of_other_sizes_is_whole_and_not_of_that_size() -> None:
    first = {2: {0: [7, 8], 1: [7]}, 1: {0: [6]}, 3: {0: [9], 1: [9]}}
    second = {2: {1: [8]}}
    assert newest_of_other_sizes(1, [first, second]) == (2, 8)
    assert newest_of_other_sizes(2, [first, second]) == (1, 6)
    assert newest_of_other_sizes(1, [first]) == (2, 7)
    assert newest_of_other_sizes(1, [{1: {0: [6]}}, {}]) is None
    assert newest_of_other_sizes(4, [{2: {0: [5], 1: [5]}, 1: {0: [5]}}]) == (1, 5)
