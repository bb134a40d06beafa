"""The hour that README.md describes: its commands as they stand there, in its order, by a shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.headrace import ROOT, environment, events, newest_step, pids_titled, steps, wait_until
from tests.end_to_end.ray_head import ray_head

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(2400)]

BIN = Path(sys.executable).parent
STEPS = 390


def commands(text: str) -> list[list[str]]:
    """The commands of each block for a shell."""
    found = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [[line.split(" #")[0].strip() for line in block.splitlines() if line.strip()] for block in found]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer has: the repository, without anything that was run in it."""
    folder = tmp_path_factory.mktemp("newcomer") / "headrace"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, files.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


class Shell:
    """Runs a newcomer's commands in the project, where `headrace` and `ray` are on the PATH."""

    def __init__(self, project: Path, **variables: str) -> None:
        path = f"{BIN}:/usr/bin:/bin"
        self._environment = {**environment(), "PATH": path, "PYTHONPATH": str(project), **variables}
        self._project = project

    def begin(self, line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", "-c", f"exec {line}"], cwd=self._project, env=self._environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, line: str, deadline_seconds: float = 900) -> str:
        """Run a command to its good end; what it prints."""
        process = self.begin(line)
        try:
            out, _ = process.communicate(timeout=deadline_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"not within {deadline_seconds} s: {line}: {process.communicate()[0]}") from None
        assert process.returncode == 0, f"{line}: {out}"
        return out


@pytest.fixture
def shell(project: Path) -> Iterator[Shell]:
    yield Shell(project)


def test_hour_of_the_readme_on_one_machine_leads_from_a_killed_run_to_an_exported_model(
    project: Path, shell: Shell
) -> None:
    activate, plan, background, watch, kill_rank, kill_driver, again, compare, generate, export, dashboard = commands(
        (project / "README.md").read_text()
    )[0]
    assert activate == ". .venv/bin/activate" and kill_driver == "kill -KILL $!"
    shell.run("headrace run recipes/demo.yaml")  # make demo
    assert "fits: " in shell.run(plan)

    out_dir = project / "recipes/runs/warm"
    driver = shell.begin(background.removesuffix(" &"))
    wait_until(lambda: newest_step(out_dir) >= 60, "step 60", 300)
    assert "warm" in shell.run(watch)
    shell.run(kill_rank)
    wait_until(lambda: len(events(out_dir, "start")) == 2, "the rank's successor", 60)
    at = newest_step(out_dir)
    wait_until(lambda: newest_step(out_dir) > at, "a step more", 60)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    wait_until(lambda: not pids_titled("headrace: rank 0/2 of warm"), "the ranks' end with their driver", 20)
    assert background == f"{again} &"
    shell.run(again)
    assert newest_step(out_dir) == STEPS and len(events(out_dir, "end")) == 1
    assert {record["step"] for record in steps(out_dir)} == set(range(1, STEPS + 1))

    told = shell.run(compare)
    assert "train.lr" in told and (project / "compared.html").stat().st_size > 10_000
    assert shell.run(generate).startswith("To be, or not to be")
    shell.run(export)
    assert json.loads((project / "warm-model/config.json").read_text())["model_type"] == "gpt2"
    assert dashboard == "headrace dashboard"


def test_hour_of_the_readme_on_a_cluster_stops_and_resumes_a_submitted_run(project: Path) -> None:
    start, submit, jobs, status, stop, resume, ray_stop = commands((project / "README.md").read_text())[1]
    assert (start, ray_stop) == ("ray start --head --num-cpus 2", "ray stop")
    out_dir = project / "recipes/runs/sent"
    with ray_head(cpus=2) as head:
        shell = Shell(project)
        here = "http://127.0.0.1:8265"  # where the newcomer's head would listen
        assert "submitted: " in shell.run(submit.replace(here, head.url))
        wait_until(lambda: newest_step(out_dir) >= 20, "step 20", 300)
        assert "running" in shell.run(jobs.replace(here, head.url))
        assert "step" in shell.run(status)
        shell.run(stop)
        end = events(out_dir, "end")[-1]
        assert end["status"] == "stopped" and events(out_dir, "checkpoint")[-1]["step"] == end["step"]
        assert f"goes on from step {end['step']}" in shell.run(resume)
    assert newest_step(out_dir) == STEPS
    assert events(out_dir, "end")[-1]["status"] == "finished"
