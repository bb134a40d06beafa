"""The page of `headrace compare --html` in a browser: curves in pixels, values under the pointer, runs switched off."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.chromium import Browser
from tests.browser.demo_runs import NAMES, write_comparison

pytestmark = [pytest.mark.browser, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(2400)]

PLOTS = ("train_tokens", "val_tokens", "val_hours", "train_hours", "speed")

# Pixels of a canvas in a run's colour, near enough; lines are smoothed into what lies beneath them.
_PIXELS = """
const canvas = document.querySelector(`canvas[data-plot=${arguments[0]}]`);
const key = getComputedStyle(document.querySelector(`.legend [data-run="${arguments[1]}"]`)).backgroundColor;
const [red, green, blue] = key.match(/[0-9]+/g).map(Number);
const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
let count = 0;
for (let i = 0; i < data.length; i += 4)
  if (data[i + 3] > 150 && Math.abs(data[i] - red) + Math.abs(data[i + 1] - green) + Math.abs(data[i + 2] - blue) < 40)
    count++;
return count;
"""


@pytest.fixture(scope="module")
def page(runs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "compared.html"
    write_comparison(runs_dir, path)
    return path.as_uri()


@pytest.fixture
def opened(browser: Browser, page: str) -> Browser:
    browser.open(page)
    browser.wait_for("document.documentElement.dataset.drawn === 'yes'", "a page whose script came to its end")
    return browser


def pixels(browser: Browser, plot: str, run: int) -> int:
    return int(browser.run(_PIXELS, plot, run))


def lines(browser: Browser) -> dict[str, str]:
    counts = "Object.fromEntries([...document.querySelectorAll('canvas')].map(c => [c.dataset.plot, c.dataset.lines]))"
    return dict(browser.run(f"return {counts}"))


def test_compare_page_draws_a_line_for_each_run_in_each_plot_and_asks_for_nothing(opened: Browser, page: str) -> None:
    assert lines(opened) == dict.fromkeys(PLOTS, "2")
    for plot in PLOTS:
        assert pixels(opened, plot, 0) > 100, plot
        assert pixels(opened, plot, 1) > 100, plot
    shown = opened.text()
    for text in (*NAMES, "2 runs compared", "val loss, best", "Where the time went"):
        assert text in shown
    assert opened.complaints() == []
    assert opened.requests() == [page]


def test_compare_page_fits_the_window_and_shows_all_plots_at_once(opened: Browser) -> None:
    bottom = "Math.max(...[...document.querySelectorAll('canvas')].map(c => c.getBoundingClientRect().bottom))"
    assert opened.run(f"return {bottom}") <= opened.run("return innerHeight")
    assert opened.run("return document.documentElement.scrollWidth <= innerWidth")


def test_compare_page_tells_the_value_under_the_pointer(opened: Browser) -> None:
    assert opened.run("return document.getElementById('tip').hidden")
    opened.point_at("canvas[data-plot=train_tokens]", 0.5, 0.5)
    opened.wait_for("!document.getElementById('tip').hidden", "the value")
    name, _, told = opened.run("return document.getElementById('tip').textContent").partition(": ")
    assert name in NAMES
    value, _, place = told.partition(" at ")
    assert 3.0 < float(value) < 12.0
    assert place.endswith(" tokens")
    assert opened.complaints() == []


def test_compare_page_run_that_is_switched_off_is_not_drawn_until_it_is_switched_on(opened: Browser) -> None:
    before = pixels(opened, "train_tokens", 1)
    opened.click("[data-toggle='1']")
    opened.point_at("h1", 0.0, 0.5)
    opened.wait_for("document.querySelector('canvas').dataset.lines === '1'", "one line")
    assert opened.run("return document.querySelector('[data-toggle=\"1\"]').getAttribute('aria-pressed')") == "false"
    assert pixels(opened, "train_tokens", 1) == 0
    assert pixels(opened, "train_tokens", 0) > 100
    opened.click("[data-toggle='1']")
    opened.point_at("h1", 0.0, 0.5)
    opened.wait_for("document.querySelector('canvas').dataset.lines === '2'", "two lines")
    assert pixels(opened, "train_tokens", 1) > 0.9 * before
    assert opened.complaints() == []
