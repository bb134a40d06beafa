"""`headrace doctor` on nodes of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.headrace import headrace, run_file
from tests.end_to_end.test_prepare import ray_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_doctor_visits_every_node_of_a_cluster_and_tells_of_each_check(tmp_path: Path) -> None:
    file = run_file(tmp_path, "mill", monitoring={"tracking_uri": "http://127.0.0.1:9"})
    with ray_cluster(nodes=2) as cluster:
        done = headrace("doctor", file, "--address", cluster.address, "--json", deadline_seconds=240)
    answer = json.loads(done.stdout)
    levels = {finding["check"]: finding["level"] for finding in answer["findings"]}
    expected = {"versions", "accelerators", "free disk", "clocks", "network", "all-reduce", "matrix products", "access"}
    assert expected <= levels.keys()
    assert levels[f"folder {tmp_path / 'runs/mill'}"] == "ok"
    assert levels["MLflow"] == "warning"
    assert len(answer["nodes"]) == len({node["node"] for node in answer["nodes"]}) == 2
    assert all(link["bytes_per_second"] > 1e6 for link in answer["links"])
    assert all(abs(node["clock_offset_seconds"]) < 0.5 for node in answer["nodes"])
    assert "bad" not in levels.values(), answer["findings"]
    assert done.returncode == 0


def test_doctor_without_a_cluster_looks_at_this_machine(tmp_path: Path) -> None:
    done = headrace("doctor")
    assert done.returncode == 0, done.stderr
    assert "versions: python 3." in done.stdout
    assert headrace("doctor", tmp_path / "no.yaml").returncode == 2
