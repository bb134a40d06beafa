from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.train.stamps import SETTINGS, Stamps, on_event, tree_cpu_seconds

# Burns what it is told of CPU time, tells so, and stays until its input closes.
BURN = """
import sys, time
while time.process_time() < float(sys.argv[1]):
    pass
print("burnt", flush=True)
sys.stdin.read()
"""
# The same in a child that has ended when this says so.
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-S", "-c", {BURN!r}, sys.argv[1]], stdin=subprocess.DEVNULL, check=True, stdout=-3)
print("burnt", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=[BURN, PARENT], ids=["alive", "ended"])
def burner(request: pytest.FixtureRequest) -> Iterator[None]:
    """A child that has used 0.3 s, itself or in a child of its own, and is still there."""
    command = [sys.executable, "-S", "-c", request.param, "0.3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "burnt\n"
        yield
        process.stdin.close()


def test_tree_cpu_seconds_counts_descendants_and_those_that_ended(burner: None) -> None:
    assert 0.25 <= tree_cpu_seconds(os.getpid()) < 5.0


def test_tree_cpu_seconds_of_a_process_without_children_is_none() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", BURN, "0.1"], stdin=subprocess.PIPE) as childless:
        assert tree_cpu_seconds(childless.pid) == 0.0
        assert childless.stdin is not None
        childless.stdin.close()


def test_stamps_are_written_with_the_last_mark(tmp_path: Path) -> None:
    stamps = Stamps(tmp_path / "rank-0.json", os.getpid(), [1, 3])
    for loss in (3.0, 2.0):
        stamps.step(loss)
    assert not (tmp_path / "rank-0.json").exists()
    stamps.step(1.0)
    found = json.loads((tmp_path / "rank-0.json").read_text())
    assert found["losses"] == [3.0, 2.0, 1.0]
    assert found["seconds"] == sorted(found["seconds"])
    assert set(found["cpu"]) == {"1", "3"}
    assert found["cpu"]["3"]["rank"] >= found["cpu"]["1"]["rank"] > 0.0


def test_on_event_stamps_the_steps_of_a_run_beside_its_folder(tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text(json.dumps({"root": os.getpid(), "marks": [2]}))
    for kind, loss in (("start", None), ("step", 2.5), ("evaluation", None), ("step", 2.25)):
        on_event(SimpleNamespace(kind=kind, out_dir=tmp_path / "run", values={"loss": loss}))
    assert json.loads((tmp_path / "rank-0.json").read_text())["losses"] == [2.5, 2.25]
