"""Search filters as SQL."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.search_filter import OtherFilterError, like, to_sql


def test_to_sql_each_kind_of_condition() -> None:
    found = to_sql(
        "params.`train.lr` = '0.001' and metrics.val_loss<5.5 AND tags.\"a b\" LIKE 'x%' AND run_name != 'a'"
    )
    assert found.values == ("train.lr", "0.001", "val_loss", 5.5, "a b", "x%", "a")
    assert found.sql.count("EXISTS") == 3
    assert "latest_metrics t WHERE t.run_uuid = runs.run_uuid AND t.key = ? AND t.value < ?" in found.sql
    assert found.sql.endswith("AND runs.name != ?")


@pytest.mark.parametrize("text", ["", "   "])
def test_to_sql_empty_filter_finds_all(text: str) -> None:
    assert (to_sql(text).sql, to_sql(text).values) == ("1", ())


@pytest.mark.parametrize(
    "text",
    [
        "params.lr = 0.001",  # a parameter is a text
        "metrics.loss = '1'",
        "params.lr < '1'",
        "params.lr IN ('1', '2')",
        "params.lr = '1' OR params.lr = '2'",
        "params.lr = '1' AND",
        "params.lr = '1'; DROP TABLE runs",
        "datasets.name = 'x'",
        "nonsense",
        "metrics.loss = 1.2.3",
        "artifact_uri = 'x'",
    ],
)
def test_to_sql_leaves_other_filters_to_mlflow(text: str) -> None:
    with pytest.raises(OtherFilterError):
        to_sql(text)


@given(st.text(max_size=20))
def test_to_sql_any_value_is_a_parameter_never_sql(value: str) -> None:
    text = value.replace("'", "")
    found = to_sql(f"tags.note = '{text}'")
    assert found.values == ("note", text)
    assert found.sql == to_sql("tags.note = 'x'").sql


@pytest.mark.parametrize(
    ("text", "pattern", "ignore_case", "matches"),
    [
        ("abc", "a%", False, True),
        ("Abc", "a%", False, False),
        ("Abc", "a%", True, True),
        ("a.c", "a_c", False, True),
        ("abc", "a.c", False, False),
        (None, "%", False, False),
    ],
)
def test_like_minds_the_case(text: str | None, pattern: str, ignore_case: bool, matches: bool) -> None:
    assert like(text, pattern, ignore_case) is matches
