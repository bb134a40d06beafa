"""The pages that a user looks at, brought to where there is something to see: for the tests and for the pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

from tests.browser.chromium import Browser
from tests.browser.demo_runs import NAMES, Dashboard

_CHART_FILTER = "input[placeholder='Search metric charts']"
_ASSISTANT, _SIDEBAR = (
    "button[data-component-id='mlflow.assistant.chat_panel.close']",
    "button[aria-label='Toggle sidebar']",
)

# The first lines of a plot's card are its title; of each run it draws a line as it is, and one that is smoothed.
CHARTS = """[...document.querySelectorAll('[data-testid="experiment-view-compare-runs-card"]')].flatMap(card => {
  const plot = card.querySelector('.js-plotly-plot');
  return plot ? [{
    title: card.innerText.split('\\n')[0],
    values: Object.fromEntries(plot.data.map(trace => [trace.name, trace.y.length])),
    lengths: [...plot.querySelectorAll('path.js-line')].map(line => line.getTotalLength()),
  }] : [];
})"""
AXES = "[...document.querySelectorAll('.js-plotly-plot .axis-title')].map(title => title.textContent)"


def show_runs(browser: Browser, dashboard: Dashboard) -> None:
    """MLflow's list of the runs."""
    browser.open(f"{dashboard.url}/#/experiments/{dashboard.experiment()}/runs")
    for name in NAMES:
        browser.wait_for_text(name)


def show_charts(browser: Browser, dashboard: Dashboard, metrics: str, plots_at_least: int) -> None:
    """MLflow's plots of the runs, those of the metrics that a regular expression finds, the loss among them."""
    browser.open(f"{dashboard.url}/#/experiments/{dashboard.experiment()}/runs?compareRunsMode=CHART")
    browser.type_into(_CHART_FILTER, metrics)
    for name in NAMES:
        browser.wait_for_text(f"{name} (loss)")
    plots = f"{CHARTS}.filter(chart => chart.lengths.length >= 2).length >= arguments[0]"
    browser.wait_for(plots, f"{plots_at_least} plots with two lines", plots_at_least)


def show_comparison(browser: Browser, dashboard: Dashboard, run_ids: Sequence[str]) -> None:
    """MLflow's page of runs side by side."""
    runs, experiments = (quote(json.dumps(ids)) for ids in (run_ids, [dashboard.experiment()]))
    browser.open(f"{dashboard.url}/#/compare-runs?runs={runs}&experiments={experiments}")
    browser.wait_for_text(f"Comparing {len(run_ids)} Runs from 1 Experiment")
    browser.wait_for("document.querySelector('.js-plotly-plot svg.main-svg')", "a plot")


def make_room(browser: Browser) -> None:
    """Put away what of MLflow's page is not of the runs."""
    for selector in (_ASSISTANT, _SIDEBAR):
        if browser.run("return document.querySelector(arguments[0]) !== null", selector):
            browser.click(selector)


def show_jobs(browser: Browser, url: str, job_id: str) -> None:
    """Ray's list of jobs."""
    browser.open(f"{url}/#/jobs")
    browser.wait_for_text(job_id)


def show_job(browser: Browser, url: str, job_id: str) -> None:
    """Ray's page of one job."""
    browser.open(f"{url}/#/jobs/{job_id}")
    browser.wait_for_text(job_id)


def fold(browser: Browser, heading: str) -> None:
    """Fold a section of Ray's page, by its heading."""
    found = "[...document.querySelectorAll('body *')].filter(each => each.innerText === arguments[0]).at(-1)"
    browser.wait_for(found, heading, heading)
    browser.run(f"{found}.click()", heading)
