"""`headrace profile` on Ray's workers: a trace of each rank, and nothing left in the run's own place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.end_to_end.headrace import headrace, run_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


def test_profile_traces_each_rank_and_leaves_the_run_unbegun(tmp_path: Path) -> None:
    file = run_file(tmp_path, "one", checkpoint__interval=1)
    done = headrace("profile", file, "--steps", "3", "--to", tmp_path / "profile", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["steps"], told["ranks"]) == (3, 2)
    for rank in told["by_rank"]:
        assert sum(part["seconds"] for part in rank["parts"].values()) == pytest.approx(rank["step_seconds"])
        for part in ("forward", "backward", "communication", "optimizer"):
            assert rank["parts"][part]["seconds"] > 0
        trace = json.loads(gzip.decompress(Path(rank["trace"]).read_bytes()))
        names = [event["name"] for event in trace["traceEvents"]]
        assert sum(name.startswith("ProfilerStep#") for name in names) == 3
        assert names.count("headrace forward") == 3 * 2  # two micro-batches a step
    assert not (tmp_path / "runs/one/run.json").exists()
    assert list((tmp_path / "profile/checkpoints").iterdir()) == []
    assert list(tmp_path.rglob("mlflow.db")) == []
