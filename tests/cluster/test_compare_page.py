"""The page of a comparison."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cluster.compare_page import compare_page, thinned
from monitoring.compare import compare_summaries
from monitoring.run_summary import RunSummary, summarise
from tests.monitoring.journals import TOKENS_PER_STEP, end, evaluation, start, step

NASTY = "</script><script>alert('x')</script>&<!--"


def summary(name: str, steps: int, shift: float = 0.0) -> RunSummary:
    losses = [step(i, loss=9.0 - i / steps + shift) for i in range(1, steps + 1)]
    return summarise(name, name, [start(), *losses, evaluation(5, 6.0 + shift), end(steps)])


class Reader(HTMLParser):
    """Tags with their attributes, and the text of each table cell."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.feed(page)
        self.cells = [cell.strip() for cell in self.cells]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def page_of(*runs: RunSummary, settings: list[dict[str, object]] | None = None) -> str:
    return compare_page(compare_summaries(runs, settings or [{"lr": i} for i in range(len(runs))]))


def curves(page: str) -> dict[str, object]:
    match = re.search(r'<script id="curves" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    found: dict[str, object] = json.loads(match[1])
    return found


def test_compare_page_holds_curves_tables_and_verdict() -> None:
    page = page_of(summary("calm", 20), summary("rough", 10, 0.5))
    data = curves(page)
    assert data["names"] == ["calm", "rough"]
    plots = data["plots"]
    assert isinstance(plots, dict)
    assert plots["train_tokens"]["curves"][1]["y"] == pytest.approx([9.5 - i / 10 for i in range(1, 11)])
    assert plots["train_tokens"]["curves"][1]["x"] == [TOKENS_PER_STEP * i for i in range(1, 11)]
    assert plots["val_hours"]["curves"][0]["y"] == [6.0]
    reader = Reader(page)
    assert [attrs["data-plot"] for tag, attrs in reader.tags if tag == "canvas"] == list(plots)
    toggles = [(attrs["data-toggle"], attrs["aria-pressed"]) for tag, attrs in reader.tags if tag == "button"]
    assert toggles == [("0", "true"), ("1", "true")]
    assert "val loss, best" in reader.cells and "lr" in reader.cells
    assert "one seed proves nothing" in page
    assert page.count("where the time of") == 2


def test_compare_page_names_nothing_outside_and_text_stays_text() -> None:
    page = page_of(summary(NASTY, 5), summary("plain", 5), settings=[{"note": NASTY}, {"note": "x"}])
    assert curves(page)["names"] == [NASTY, "plain"]
    reader = Reader(page)
    assert [tag for tag, _ in reader.tags].count("script") == 2
    assert all(not {"src", "href"} & attrs.keys() for _, attrs in reader.tags)
    assert "http" not in page.replace("http-equiv", "")
    assert NASTY in reader.cells
    assert "default-src 'none'" in page and "script-src 'sha256-" in page


def test_compare_page_bad_numbers_are_gaps() -> None:
    records = [start(), step(1, loss=2.0), step(2, loss=None, loss_hex="nan"), step(3, loss=None, loss_hex="inf")]
    page = page_of(summarise("a", "a", records))
    plots = curves(page)["plots"]
    assert isinstance(plots, dict)
    assert plots["train_tokens"]["curves"][0]["y"] == [2.0, None, None]


def test_compare_page_many_runs_stays_small_enough() -> None:
    page = page_of(*(summary(f"run-{i}", 400) for i in range(60)))
    plots = curves(page)["plots"]
    assert isinstance(plots, dict)
    assert {len(curve["x"]) for curve in plots["train_tokens"]["curves"]} == {400}
    assert {len(curve["x"]) for curve in curves(page_of(*[summary("a", 900)]))["plots"]["speed"]["curves"]} == {800}  # type: ignore[index]


def test_thinned_means_of_neighbours_in_six_digits() -> None:
    x, y = thinned(np.arange(10), np.array([1.0, 3.0, *[5.0] * 6, 1 / 3, 1 / 3]), 5)
    assert x == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert y == [2.0, 5.0, 5.0, 5.0, 0.333333]
    values = np.array([123456789.0, -1.23456789e-7, 0.0, np.nan])
    assert thinned(values, values, 9) == (
        [123457000.0, -1.23457e-7, 0.0, pytest.approx(np.nan, nan_ok=True)],
        [123457000.0, -1.23457e-7, 0.0, None],
    )
