import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards.lengths import LengthHistogram

SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.999, 1.0)


def histogram_of(lengths: list[int]) -> LengthHistogram:
    histogram = LengthHistogram()
    histogram.add(lengths)
    return histogram


@given(st.lists(st.integers(0, 2047), min_size=1, max_size=60), st.sampled_from(SHARES))
def test_quantile_of_short_lengths_is_exact(lengths: list[int], share: float) -> None:
    assert histogram_of(lengths).quantile(share) == pytest.approx(np.quantile(lengths, share), rel=1e-12)


@given(st.lists(st.integers(0, 2**50), min_size=1, max_size=60), st.sampled_from(SHARES))
def test_quantile_of_any_lengths_is_near(lengths: list[int], share: float) -> None:
    assert histogram_of(lengths).quantile(share) == pytest.approx(np.quantile(lengths, share), rel=5e-4)


@given(st.lists(st.integers(0, 2**50), max_size=40), st.lists(st.integers(0, 2**50), max_size=40))
def test_merge_is_as_if_all_were_added(first: list[int], second: list[int]) -> None:
    merged = histogram_of(first)
    merged.merge(histogram_of(second))
    assert merged.summary() == histogram_of(first + second).summary()
    assert merged.log_bins() == histogram_of(first + second).log_bins()


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=60))
def test_log_bins_hold_each_length_once(lengths: list[int]) -> None:
    bins = histogram_of(lengths).log_bins()
    for index, each in enumerate(bins):
        low = 0 if each["low"] == 1 else each["low"]
        assert each["count"] == sum(low <= length < each["high"] for length in lengths)
        assert index == 0 or each["low"] == bins[index - 1]["high"]
    assert sum(each["count"] for each in bins) == len(lengths)
    assert bins[0]["count"] and bins[-1]["count"]


def test_summary_has_extremes_and_mean_exactly() -> None:
    summary = histogram_of([5, 3_000_001, 7_000_003]).summary()
    assert summary is not None
    assert (summary["min"], summary["max"]) == (5, 7_000_003)
    assert summary["mean"] == pytest.approx(10_000_009 / 3)


def test_histogram_of_nothing_has_no_quantile() -> None:
    empty = histogram_of([])
    assert (empty.summary(), empty.log_bins(), empty.total) == (None, [], 0)
    with pytest.raises(ValueError, match="no length"):
        empty.quantile(0.5)
