"""`headrace compare` of 500 runs: five seconds of the processor, whatever else the machine does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.many_runs import KINDS, fill_store, make_folders

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

RUNS = 500
LIMIT_SECONDS = 5.0


def compared(runs_dir: Path, *words: str) -> tuple[dict[str, Any], float]:
    """The answer of the command, and the processor's seconds that it took, its start included."""
    command = [sys.executable, "-m", "cluster.cli", "compare", "--runs-dir", str(runs_dir), "--json", *words]
    with (runs_dir / "answer.json").open("w+") as answer:
        process = subprocess.Popen(command, stdout=answer, env={**os.environ, "OMP_NUM_THREADS": "1"})
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        answer.seek(0)
        return json.load(answer), usage.ru_utime + usage.ru_stime


def assert_whole(answer: dict[str, Any], steps: int) -> None:
    assert len(answer["runs"]) == RUNS
    assert {run["steps"] for run in answer["runs"]} == {steps}
    assert len(answer["seeds"]["groups"]) == KINDS


@pytest.mark.parametrize(("steps", "looks"), [(1_000, 1), (10_000, 2)])
def test_compare_500_runs_of_folders_takes_five_seconds(tmp_path: Path, steps: int, looks: int) -> None:
    """Ten values a step: 10,000 points of each run that were never read; 10,000 steps of each that were."""
    make_folders(tmp_path, RUNS, steps)
    names = [f"run-{number:03d}" for number in range(RUNS)]
    spent = []
    for _ in range(looks):
        answer, seconds = compared(tmp_path, *names, "--html", str(tmp_path / "page.html"))
        assert_whole(answer, steps)
        spent.append(round(seconds, 2))
    assert spent[-1] < LIMIT_SECONDS, spent


def test_compare_500_runs_of_a_store_takes_five_seconds(tmp_path: Path, empty_database: Path) -> None:
    """10,000 points of each run, none of whose folders are there."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    fill_store(tmp_path / "mlflow.db", RUNS, 1_000)
    answer, seconds = compared(tmp_path, "--search", "params.`train.lr` != '1'")
    assert_whole(answer, 1_000)
    assert [len(group["runs"]) for group in answer["seeds"]["groups"]] == [RUNS // KINDS] * KINDS
    assert seconds < LIMIT_SECONDS
