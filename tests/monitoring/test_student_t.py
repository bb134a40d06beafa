"""Student's t, against SciPy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from monitoring.student_t import t_distribution, t_quantile


@given(st.floats(0.5, 0.9999), st.floats(1.0, 500.0))
def test_t_quantile_is_that_of_scipy(probability: float, df: float) -> None:
    assert t_quantile(probability, df) == pytest.approx(stats.t.ppf(probability, df), rel=1e-8, abs=3e-8)


@given(st.floats(-50, 50), st.floats(0.5, 500.0))
def test_t_distribution_is_that_of_scipy(t: float, df: float) -> None:
    assert t_distribution(t, df) == pytest.approx(stats.t.cdf(t, df), abs=3e-8)


@pytest.mark.parametrize("t", [0.0, 1e-200, 1e-7, 1.0, 1e7, 1e12, 1e150])
@pytest.mark.parametrize("df", [0.5, 3.0, 128.0])
def test_t_distribution_at_the_ends_is_that_of_scipy(t: float, df: float) -> None:
    for value in (t, -t):
        assert t_distribution(value, df) == pytest.approx(stats.t.cdf(value, df), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("probability", "df"), [(0.4, 3.0), (1.0, 3.0), (0.9, 0.0)])
def test_t_quantile_impossible_values_are_refused(probability: float, df: float) -> None:
    with pytest.raises(ValueError, match=r"needs 0\.5 <= probability"):
        t_quantile(probability, df)
