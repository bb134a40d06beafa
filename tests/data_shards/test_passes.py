import pytest

from data_shards.errors import DataError
from data_shards.order import Order
from data_shards.passes import check_passes


def test_check_passes_over_the_cap_is_refused_with_source_passes_and_cap() -> None:
    message = r"data.sources: the run goes through b 2\.50 times, and its max_passes is 2: train on fewer"
    with pytest.raises(DataError, match=message):
        check_passes({"a": 9.0, "b": 2.5}, {"b": 2.0})


def test_check_passes_at_the_cap_is_taken() -> None:
    assert check_passes({"a": 2.0, "b": 1.0}, {"a": 2.0, "absent": 1.0}) == {}


def test_check_passes_past_four_are_told_and_four_are_not() -> None:
    assert check_passes({"c": 4.01, "b": 4.0, "a": 40.0}, {"a": 50.0}) == {"a": 40.0, "c": 4.01}


def test_order_passes_without_weights_are_one_number() -> None:
    order = make_order(None)
    assert order.passes(0) == {"a": 0.0, "b": 0.0}
    assert order.passes(45) == {"a": 3.0, "b": 3.0}


def test_order_passes_with_weights_follow_shares_and_sizes() -> None:
    assert make_order({"a": 0.5, "b": 0.5}).passes(200) == {"a": 10.0, "b": 20.0}


def make_order(weights: dict[str, float] | None) -> Order:
    """Ten sequences of source a, five of b."""
    return Order([81, 41], ["a", "b"], seq_len=8, seed=1, streams=4, window=2, weights=weights, fingerprint="f")
