from __future__ import annotations

from pathlib import Path

import pytest

from cluster.node_facts import find_facts, read_versions


@pytest.mark.slow
def test_node_facts_measure_this_machine_and_leave_nothing_behind(tmp_path: Path) -> None:
    facts = find_facts("here", str(tmp_path))
    assert facts.node == "here"
    assert facts.problems == ()
    assert min(facts.cpus, facts.memory_bytes, facts.disk_bytes, facts.open_files) > 0
    assert min(facts.matmul_flops_per_second, facts.disk_write_bytes_per_second) > 1e6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_node_facts_of_a_folder_that_is_not_there_tell_so(tmp_path: Path) -> None:
    facts = find_facts("here", str(tmp_path / "no"))
    assert len(facts.problems) == 2
    assert facts.disk_write_bytes_per_second == 0
    assert "a file cannot be written there" in facts.problems[1]


def test_versions_are_of_python_and_what_ranks_must_have_alike() -> None:
    versions = read_versions()
    assert versions["python"].startswith("3.")
    assert {"torch", "deepspeed", "ray", "mlflow"} <= versions.keys()
    assert "none" not in versions.values()
