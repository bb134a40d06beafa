import xml.etree.ElementTree as ElementTree

import pytest

from cluster.charts import Column, column_chart, share_chart


def rects(chart: str) -> list[dict[str, str]]:
    return [rect.attrib for rect in ElementTree.fromstring(chart).iter("rect")]


def test_columns_stand_on_one_line_side_by_side() -> None:
    drawn = rects(column_chart([Column("a", 1, "one"), Column("b", 4, "four"), Column("c", 0, "none")], "x"))
    feet = {float(rect["y"]) + float(rect["height"]) for rect in drawn}
    assert len(feet) == 1
    assert float(drawn[1]["height"]) == pytest.approx(4 * float(drawn[0]["height"]), abs=0.05)
    assert float(drawn[2]["height"]) == 0
    assert float(drawn[0]["x"]) + float(drawn[0]["width"]) < float(drawn[1]["x"])


@pytest.mark.parametrize("columns", [[], [Column("a", 0, "")], [Column(str(k), k, "") for k in range(500)]])
def test_any_number_of_columns_stays_within_the_picture(columns: list[Column]) -> None:
    tree = ElementTree.fromstring(column_chart(columns, "x"))
    _, _, width, height = map(float, tree.attrib["viewBox"].split())
    drawn = [rect.attrib for rect in tree.iter("rect")]
    assert len(drawn) == len(columns)
    assert all(float(rect["x"]) >= 0 and float(rect["x"]) + float(rect["width"]) <= width for rect in drawn)
    assert all(float(rect["y"]) >= 0 and float(rect["y"]) + float(rect["height"]) <= height for rect in drawn)
    assert len([text for text in tree.iter("text") if text.attrib["class"] == "tick"]) <= 12


@pytest.mark.parametrize(
    ("top", "ticks"),
    [
        (7, ["0", "2", "4", "6"]),
        (1, ["0", "1"]),
        (3, ["0", "1", "2", "3"]),
        (30, ["0", "10", "20", "30"]),
        (2_500_000, ["0", "500k", "1M", "1.5M", "2M", "2.5M"]),
    ],
)
def test_grid_lines_are_at_round_values(top: int, ticks: list[str]) -> None:
    tree = ElementTree.fromstring(column_chart([Column("a", top, "")], "x"))
    assert [text.text for text in tree.iter("text") if text.attrib["class"] == "tick end"] == ticks


def test_shares_fill_the_bar_and_empty_ones_are_left_out() -> None:
    drawn = rects(share_chart([("a", 0.25), ("b", 0.0), ("c", 0.75)], "x"))
    assert [rect["class"] for rect in drawn] == ["part0", "part2"]
    assert [float(rect["width"]) for rect in drawn] == [160, 480]
    assert float(drawn[1]["x"]) == 160


def test_chart_takes_labels_as_text() -> None:
    tree = ElementTree.fromstring(column_chart([Column("<&", 1, '"><script>')], '"<x>'))
    assert tree.attrib["aria-label"] == '"<x>'
    assert [title.text for title in tree.iter("title")] == ['"><script>']
