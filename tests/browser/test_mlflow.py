"""MLflow's pages, as `headrace dashboard` opens them, in a browser: the runs, side by side, and their plots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Browser
from tests.browser.demo_runs import EVALUATION_INTERVAL, NAMES, STEPS, Dashboard, dashboard
from tests.browser.scenes import AXES, CHARTS, show_charts, show_comparison, show_runs

pytestmark = [pytest.mark.browser, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def opened(runs_dir: Path) -> Iterator[Dashboard]:
    with dashboard(runs_dir) as served:
        yield served


def beyond(browser: Browser, opened: Dashboard) -> list[str]:
    """Requests to anything but the dashboard."""
    return [url for url in browser.requests() if not url.startswith(f"{opened.url}/")]


def test_mlflow_dashboard_lists_both_runs_by_name_and_asks_nobody_else(browser: Browser, opened: Dashboard) -> None:
    show_runs(browser, opened)
    assert "2 matching runs" in browser.text()
    assert beyond(browser, opened) == []


def test_mlflow_dashboard_plots_every_step_of_both_runs(browser: Browser, opened: Dashboard) -> None:
    show_charts(browser, opened, "^(loss|val_loss)$", plots_at_least=2)
    charts = {chart["title"]: chart for chart in browser.run(f"return {CHARTS}")}
    assert set(charts) == {"loss", "val_loss"}
    for metric, values in (("loss", STEPS), ("val_loss", STEPS // EVALUATION_INTERVAL)):
        assert set(charts[metric]["values"].values()) == {values}, metric
        assert len(charts[metric]["lengths"]) >= len(NAMES), metric
        assert all(length > 30 for length in charts[metric]["lengths"]), metric  # pixels
    assert beyond(browser, opened) == []


def test_mlflow_dashboard_compares_both_runs_with_what_differs(browser: Browser, opened: Dashboard) -> None:
    run_ids = opened.run_ids()
    assert sorted(run_ids) == sorted(NAMES)
    show_comparison(browser, opened, [run_ids[name] for name in NAMES])
    shown = browser.text()
    for text in (*NAMES, *run_ids.values(), "Parameters", "Metrics", "train.lr", "final_val_loss"):
        assert text in shown
    assert "seed" in browser.run(f"return {AXES}")
    assert beyond(browser, opened) == []
