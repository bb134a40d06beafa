import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.order import Order, sequence_ids
from data_shards.permutation import Int64Array
from data_shards.positions import Stretches, next_free

spans = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 20)), max_size=8)


def disjoint(parts: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sorted, disjoint spans that cover the given (start, length)."""
    taken = sorted({p for start, length in parts for p in range(start, start + length)})
    starts = [p for p in taken if p - 1 not in taken]
    ends = [p + 1 for p in taken if p + 1 not in taken]
    return tuple(zip(starts, ends, strict=True))


@settings(deadline=None)
@given(start=st.integers(0, 300), count=st.integers(0, 50), parts=spans)
def test_next_free_any_spans_gives_the_first_positions_outside_them(
    start: int, count: int, parts: list[tuple[int, int]]
) -> None:
    excluded = disjoint(parts)
    free = [p for p in range(start, 1000) if not any(low <= p < high for low, high in excluded)]
    assert next_free(start, count, excluded).tolist() == free[:count]


class CountingOrder(Order):
    """Counts how often it is asked."""

    asked = 0

    def locate(self, positions: Int64Array) -> tuple[Int64Array, Int64Array]:
        self.asked += 1
        return super().locate(positions)


def make_order(longest: int = 400) -> CountingOrder:
    return CountingOrder(
        [81, 41, longest], ["a"] * 3, seq_len=8, seed=1, streams=4, window=2, weights=None, fingerprint="f"
    )


KEYS = np.array([5, 6, 7], dtype=np.uint64)


@settings(max_examples=50, deadline=None)
@given(
    asks=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60), st.booleans()), min_size=1, max_size=8),
    parts=spans,
)
def test_stretches_asked_in_any_order_answer_what_the_order_does(
    asks: list[tuple[int, int, bool]], parts: list[tuple[int, int]]
) -> None:
    order, excluded = make_order(), disjoint(parts)
    stretches = Stretches(order, KEYS)
    follows = 0
    for start, count, goes_on in asks:
        start = follows if goes_on else start
        found = stretches.next(start, count, excluded)
        expected = next_free(start, count, excluded)
        shards, firsts = order.locate(expected)
        assert found.positions.tolist() == expected.tolist()
        assert (found.shards.tolist(), found.firsts.tolist()) == (shards.tolist(), firsts.tolist())
        assert (found.ids == sequence_ids(shards, firsts, KEYS)).all()
        follows = int(expected[-1]) + 1


def test_stretches_of_changed_exclusions_are_located_anew() -> None:
    stretches = Stretches(make_order(), KEYS)
    assert stretches.next(0, 4, ()).positions.tolist() == [0, 1, 2, 3]
    assert stretches.next(0, 4, ((1, 3),)).positions.tolist() == [0, 3, 4, 5]
    assert stretches.next(6, 2, ()).positions.tolist() == [6, 7]


def test_stretches_ask_the_order_seldom_and_ever_more_at_once() -> None:
    order = make_order(longest=200_000)
    stretches, start = Stretches(order, KEYS), 0
    asked_before, asked_after = order.asked, []
    for _ in range(1024):
        start = int(stretches.next(start, 16, ()).positions[-1]) + 1
        asked_after.append(order.asked - asked_before)
    assert [asked_after[step] for step in (0, 1, 4, 5, 20, 21)] == [1, 2, 2, 3, 3, 4]
    assert asked_after[-1] == 7  # of 16, 64, 256, 1024, 4096, 8192 and 8192 positions
    stretches.next(start, 10_000, ())
    assert order.asked - asked_before == 8


def test_stretches_of_a_small_corpus_are_no_longer_than_its_epoch() -> None:
    order = make_order(longest=9)
    stretches, start = Stretches(order, KEYS), 0
    for _ in range(20):
        start = int(stretches.next(start, 2, ()).positions[-1]) + 1
    assert len(stretches._stretch.positions) == order.sequences_per_epoch == 16
