"""Two short runs of the demo, of two seeds, and MLflow's pages on them as `headrace dashboard` opens them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.end_to_end.headrace import ROOT, command, environment, headrace, wait_until
from tests.monitoring.processes import free_port

NAMES = ("demo-seed-1", "demo-seed-2")
STEPS, EVALUATION_INTERVAL = 40, 5
_RUN_SECONDS = 900
_START_SECONDS = 600.0
_PATIENT = {"RAY_raylet_start_wait_time_s": "120", "RAY_agent_register_timeout_ms": "100000"}


def make_demo_runs(folder: Path) -> Path:
    """The folder of the two runs; those that are finished there are taken as they are."""
    for seed, name in enumerate(NAMES, start=1):
        words = command("run", "recipes/demo.yaml", *demo_fields(folder, name, seed))
        env = {**environment(), **_PATIENT}
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=_RUN_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs"


def demo_fields(folder: Path, name: str, seed: int) -> list[str]:
    """The words that make a short run in that folder of the demo."""
    fields = {
        **{"name": name, "seed": seed, "out_dir": folder / "runs" / name, "data.dir": folder / "data"},
        **{"train.max_tokens": "null", "train.max_steps": STEPS, "checkpoint.interval": 20},
        "eval.interval": EVALUATION_INTERVAL,
    }
    return [word for key, value in fields.items() for word in ("--set", f"{key}={value}")]


def write_comparison(runs_dir: Path, page: Path) -> None:
    """The page of `headrace compare --html`."""
    done = headrace("compare", *(runs_dir / name for name in NAMES), "--html", page)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Dashboard:
    """MLflow's pages."""

    url: str

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """An answer of MLflow's own interface."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return dict(json.load(answer))

    def experiment(self) -> str:
        """The id of the runs' experiment."""
        found = self.ask("experiments/get-by-name?experiment_name=headrace")
        return str(found["experiment"]["experiment_id"])

    def run_ids(self) -> dict[str, str]:
        """MLflow's ids by name."""
        found = self.ask("runs/search", {"experiment_ids": [self.experiment()]})["runs"]
        return {run["info"]["run_name"]: run["info"]["run_id"] for run in found}

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def dashboard(runs_dir: Path) -> Iterator[Dashboard]:
    """`headrace dashboard` on those runs, ended with the block."""
    port = free_port()
    words = command("dashboard", "--runs-dir", runs_dir, "--port", str(port))
    with (runs_dir / "dashboard.log").open("wb") as log:
        server = subprocess.Popen(
            words, cwd=ROOT, env=environment(), stdout=log, stderr=log, start_new_session=True
        )  # a group of its own: its servers end with it
    found = Dashboard(f"http://127.0.0.1:{port}")
    try:
        wait_until(lambda: found.answers() or server.poll() is not None, "MLflow's pages", _START_SECONDS)
        assert server.poll() is None, (runs_dir / "dashboard.log").read_text()
        yield found
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
