"""Ray's dashboard in a browser: the job that `headrace submit` sent."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.browser.chromium import Browser
from tests.browser.scenes import show_job, show_jobs
from tests.end_to_end.headrace import headrace, run_file
from tests.end_to_end.ray_head import Head, ray_head

pytestmark = [pytest.mark.browser, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(cpus=2) as started:
        yield started


@pytest.fixture(scope="module")
def job_id(head: Head, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that was submitted and has finished."""
    file = run_file(tmp_path_factory.mktemp("project"), "mill", train__max_steps=6, eval__samples=[])
    done = headrace("submit", file, "--address", head.url, "--follow", deadline_seconds=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split("submitted: ")[1].split()[0]


def test_ray_dashboard_lists_the_submitted_job_as_succeeded(browser: Browser, head: Head, job_id: str) -> None:
    show_jobs(browser, head.url, job_id)
    browser.wait_for_text("SUCCEEDED")
    rows = browser.run("return [...document.querySelectorAll('tr')].map(row => row.innerText)")
    [row] = [row for row in rows if job_id in row]
    assert "SUCCEEDED" in row
    assert "mill" in row.split()
    assert [url for url in browser.requests() if not url.startswith(f"{head.url}/")] == []


def test_ray_dashboard_shows_the_job_s_log(browser: Browser, head: Head, job_id: str) -> None:
    show_job(browser, head.url, job_id)
    browser.wait_for_text("SUCCEEDED")
    browser.wait_for_text("step 6 ")
    assert re.search(r"step 6 .*tokens/s", browser.text())
    assert "validation loss" in browser.text()
