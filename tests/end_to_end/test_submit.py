"""Runs on a cluster as its users see them: a real Ray head, its job server, and the commands alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitoring.goodput import goodput
from monitoring.journal import read_records
from tests.end_to_end.headrace import command, environment, events, headrace, run_file, steps, wait_until
from tests.end_to_end.ray_head import Head, ray_head
from tests.model.byte_tokenizer import byte_tokenizer
from trainer.run_lock import read_lease

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG = {"interval": 20, "snapshot_interval": 1}


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A cluster of one node with two CPUs."""
    with ray_head(cpus=2) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's project."""
    return tmp_path / "project"


def project_file(folder: Path, name: str, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    return run_file(folder, name, **changes)


def submitted(head: Head, file: Path, *words: str) -> str:
    """The job's id."""
    done = headrace("submit", file, "--address", head.url, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("submitted: ")[1].split()[0]


def job(head: Head, job_id: str) -> dict[str, Any]:
    """What `headrace jobs` says of it."""
    done = headrace("jobs", "--address", head.url, "--json")
    assert done.returncode == 0, done.stderr
    [found] = [found for found in json.loads(done.stdout) if found["job_id"] == job_id]
    return dict(found)


def wait_for_state(head: Head, job_id: str, state: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        listed = job(head, job_id)
        return listed if listed["state"] == state else None

    return dict(wait_until(found, f"{job_id} {state}", deadline_seconds=600))


def test_submitted_run_from_a_project_with_our_names_trains_and_is_followed_to_its_end(
    head: Head, folder: Path
) -> None:
    """The project has packages of its own by our names, and a tokenizer within one of them, which travels."""
    file = project_file(
        folder, "sent", data__tokenizer="model/tokenizer.json", train__max_steps=6, eval__interval=100, eval__samples=[]
    )
    for name in ("model", "trainer", "cluster"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('this is the user's own')")
    byte_tokenizer(folder / "model/tokenizer.json")
    words = command("submit", file.name, "--address", head.url, "--follow", "--env", "LANG")
    words[1:1] = ["-P"]  # as the installed command starts
    env = {**environment(), "LANG": "C.UTF-8", "HEADRACE_OWNER": "ann"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  file  model/tokenizer.json" in done.stdout
    assert done.stdout.index("submitted: ") < done.stdout.index("step 1 ")
    out_dir = folder / "runs/sent"
    assert [record["step"] for record in steps(out_dir)] == list(range(1, 7))
    assert (out_dir / "submitted/model/tokenizer.json").read_bytes() == (folder / "model/tokenizer.json").read_bytes()
    job_id = done.stdout.split("submitted: ")[1].split()[0]
    assert json.loads((out_dir / "run.json").read_text())["run_id"] == job_id.removesuffix("-1")
    listed = job(head, job_id)
    assert (listed["state"], listed["owner"], listed["exit_status"]) == ("finished", "ann", 0)
    [queued] = events(out_dir, "queued")
    assert queued["since"] == listed["submitted"]
    assert 0.0 < queued["seconds"] < events(out_dir, "start")[0]["time"] - queued["since"]


@pytest.mark.long
@pytest.mark.faults
def test_submitted_run_outlives_its_driver_saves_on_a_stop_and_is_resumed_to_its_end(head: Head, folder: Path) -> None:
    file = project_file(folder, "rough", train__max_steps=400, checkpoint=LONG, eval__interval=1000, eval__samples=[])
    out_dir = folder / "runs/rough"
    first = submitted(head, file)
    wait_until(lambda: len(steps(out_dir)) >= 30, "step 30", deadline_seconds=400)
    again = headrace("submit", file, "--address", head.url)
    assert (again.returncode, first in again.stderr) == (2, True)
    lease = read_lease(out_dir)
    assert lease is not None
    os.kill(lease.pid, signal.SIGKILL)
    wait_until(lambda: len(events(out_dir, "start")) == 2, "a driver started anew", deadline_seconds=400)
    assert "the driver was ended by SIGKILL; start 1 of 5 anew" in headrace("logs", out_dir).stdout
    stopped = headrace("stop", "rough", "--address", head.url, deadline_seconds=400)
    assert stopped.returncode == 0, stopped.stderr
    assert job(head, first)["state"] == "stopped"
    end = events(out_dir, "end")[-1]
    assert end["status"] == "stopped"
    assert events(out_dir, "checkpoint")[-1]["step"] == end["step"] < 400
    resumed = headrace("resume", out_dir, "--follow", deadline_seconds=600)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"goes on from step {end['step']}" in resumed.stdout
    assert {record["step"] for record in steps(out_dir)} == set(range(1, 401))
    hashes: dict[int, set[str]] = {}
    for record in steps(out_dir):
        hashes.setdefault(record["step"], set()).add(record["loss_hex"])
    assert all(len(found) == 1 for found in hashes.values())
    assert json.loads(headrace("status", out_dir, "--json").stdout)["job"]["state"] == "finished"


@pytest.mark.long
def test_run_in_line_starts_when_the_one_before_it_has_ended(head: Head, folder: Path) -> None:
    """Gangs of three workers, over both nodes, whose ranks all write into the run's folder."""
    head.add_node(cpus=1)
    of_three = {"cluster__workers": 3, "eval__samples": []}
    first = submitted(head, project_file(folder, "first", train__max_steps=100_000, **of_three))
    wait_until(lambda: len(steps(folder / "runs/first")) >= 1, "step 1", deadline_seconds=400)
    second = submitted(head, project_file(folder, "second", train__max_steps=4, **of_three), "--wait")
    third = submitted(head, project_file(folder, "third", cluster__workers=1), "--wait")
    waiting = wait_until(lambda: job(head, third)["waits_for"], "figures", deadline_seconds=200)
    assert (waiting["largest"], waiting["before"], waiting["free_cpus"]) == (0, 1, 0.0)
    shown = headrace("status", "second", "--address", head.url).stdout
    assert "asked 3 workers of 1 CPU; free 0 CPU, 0 GPU; largest gang that would fit 0; 0 runs before it" in shown
    stopped = headrace("stop", third, "--address", head.url, deadline_seconds=400)
    assert stopped.returncode == 0, stopped.stderr
    assert job(head, third)["state"] == "stopped"
    assert job(head, second)["state"] == "waiting"
    waited_seconds = time.time() - job(head, second)["submitted"]
    assert headrace("stop", first, "--address", head.url, "--now").returncode == 0
    wait_for_state(head, second, "finished")
    assert [record["step"] for record in steps(folder / "runs/second")] == [1, 2, 3, 4]
    [queued] = events(folder / "runs/second", "queued")
    assert waited_seconds <= queued["seconds"] < events(folder / "runs/second", "start")[0]["time"] - queued["since"]
    spent = goodput(read_records(folder / "runs/second"))
    assert spent.seconds["in_line"] == pytest.approx(queued["seconds"], abs=1e-5)
    assert len(list((folder / "runs/second/logs").glob("attempt-0001-rank-*.log"))) == 3
    assert not (folder / "runs/third/run.json").exists()


@pytest.mark.long
def test_submitted_run_with_wrong_input_ends_once_with_the_status_of_one(head: Head, folder: Path) -> None:
    """What only the cluster can find wrong: the corpus is not there."""
    file = project_file(folder, "wrong", data__sources=["nowhere/*.txt"])
    done = headrace("submit", file, "--address", head.url, "--follow", deadline_seconds=400)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "nowhere/*.txt" in done.stdout
    assert "anew" not in done.stdout
    job_id = done.stdout.split("submitted: ")[1].split()[0]
    assert job(head, job_id)["state"] == "refused"
