from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError
from cluster.jobs.job import find_job, job_in_folder, jobs_table, refuse_another_owner
from cluster.jobs.ticket import METADATA_KEY, ticket_from_metadata
from tests.cluster.jobs_world import gang, job, ticket


def test_ticket_comes_back_from_a_job_s_metadata() -> None:
    sent = ticket(number=3, waits=True, gang=gang(4, gpus=1))
    assert ticket_from_metadata(sent.to_metadata()) == sent
    assert sent.job_id == "20260101-a-3"
    assert sent.to_metadata()["job_name"] == "demo"  # as Ray's pages show it


@pytest.mark.parametrize(
    "metadata", [None, {}, {"a": "b"}, {METADATA_KEY: "no json"}, {METADATA_KEY: '{"of": "later"}'}]
)
def test_ticket_of_another_s_job_is_none(metadata: dict[str, str] | None) -> None:
    assert ticket_from_metadata(metadata) is None


@pytest.mark.parametrize(
    ("fields", "state", "exit_code"),
    [
        ({"status": "PENDING"}, "pending", None),
        ({"status": "RUNNING"}, "running", None),
        ({"status": "RUNNING", "waits": True}, "waiting", None),
        ({"status": "PENDING", "waits": True}, "waiting", None),
        ({"status": "RUNNING", "waits": True, "driver_id": "02000000"}, "running", None),
        ({"status": "SUCCEEDED", "exit_status": 0}, "finished", 0),
        ({"status": "FAILED", "exit_status": 3}, "stopped", 3),
        ({"status": "FAILED", "exit_status": 2}, "refused", 2),
        ({"status": "FAILED", "exit_status": 1}, "failed", 1),
        ({"status": "FAILED", "exit_status": 137}, "failed", 137),
        ({"status": "FAILED"}, "failed", 1),
        ({"status": "STOPPED", "waits": True}, "ended", 1),
    ],
)
def test_job_state_and_exit_status_follow_ray_s_word_and_the_driver_s(
    fields: dict[str, Any], state: str, exit_code: int | None
) -> None:
    found = job(**fields)
    assert found.state == state
    assert found.to_dict()["exit_status"] == exit_code


def test_find_job_by_job_id_run_id_folder_and_name() -> None:
    first, second = job(status="FAILED", number=1), job(number=2, submitted=2.0)
    other = job("20260101-b", name="other", submitted=3.0)
    jobs = [second, first, other]
    assert find_job("20260101-a-1", jobs) == first
    for text in ("20260101-a", "demo", "/runs/20260101-a"):
        assert find_job(text, jobs) == second
    assert find_job("unknown", jobs) is None


def test_find_job_by_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = job(out_dir=str(tmp_path / "runs/demo"), name="x")
    assert find_job("runs/demo", [found]) == found


def test_find_job_by_the_name_of_several_runs_takes_the_one_that_is_not_over_or_asks() -> None:
    over, alive = job("a", status="SUCCEEDED"), job("b")
    assert find_job("demo", [over, alive]) == alive
    with pytest.raises(ClusterError, match=r"must be that of one run, found a, b; give the id"):
        find_job("demo", [over, job("b", status="FAILED")])


def test_job_in_folder_counts_those_that_are_not_over() -> None:
    over, alive = job("a", status="FAILED", out_dir="/x"), job("b", out_dir="/x")
    assert job_in_folder("/x", [over, alive]) == alive
    assert job_in_folder("/x", [over]) is None


def test_another_s_job_asks_for_force() -> None:
    refuse_another_owner(job(), "ann", forced=False)
    refuse_another_owner(job(), "bob", forced=True)
    with pytest.raises(ClusterError, match=r"the run is ann's, and you are bob .* give --force"):
        refuse_another_owner(job(), "bob", forced=False)


def test_jobs_table_is_by_time_with_what_each_waits_for() -> None:
    late, early = job("b", submitted=86_400.0, waits=True), job("a", submitted=0.0)
    lines = jobs_table([late, early], {"b-1": "waiting for room"}).splitlines()
    assert [line.split()[0] for line in lines] == ["JOB", "a-1", "b-1"]
    assert "1970-01-02 00:00" in lines[2] and lines[2].endswith("waiting for room")
