"""The entry process of a job, up to the driver, and how it stands in line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import cluster.jobs.standing_in_line as standing
from cluster.errors import ClusterError
from cluster.jobs.entry import driver_command, run_job
from cluster.jobs.line import Turn
from cluster.jobs.order import START_FILE, RunOrder, write_order
from cluster.jobs.room import Room
from cluster.jobs.standing_in_line import stand_in_line, time_in_line
from cluster.jobs.submitted import Submitted, keep_submitted, read_submitted, submitted_here, submitted_run_file
from cluster.jobs.time_in_line import TimeInLine, tell_time_in_line
from monitoring.goodput import goodput
from monitoring.journal import read_records
from tests.cluster.jobs_world import gang, job, ticket
from tests.end_to_end.headrace import events
from trainer.attempts import take_attempt
from trainer.run_lock import run_lock
from trainer.stop import ask_to_stop, is_stop_asked


def turn(is_now: bool, largest: int = 0) -> Turn:
    return Turn(is_now, Room(gang(), float(largest), 0.0, largest, 0))


def stand(tmp_path: Path, *looks: Turn | ClusterError, stop_after: int | None = None) -> tuple[bool, int]:
    """Whether it was its turn, and how often it paused."""
    left, pauses = list(looks), 0

    def look() -> Turn:
        found = left.pop(0)
        if isinstance(found, ClusterError):
            raise found
        return found

    def pause(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == stop_after:
            ask_to_stop(tmp_path)

    return stand_in_line("a-1", tmp_path, "head:1", look, pause), pauses


def test_line_ends_when_room_was_seen_twice_in_a_row(tmp_path: Path) -> None:
    assert stand(tmp_path, turn(False), turn(True), turn(False), turn(True), turn(True)) == (True, 4)


def test_line_outlasts_a_server_that_is_away_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = ClusterError("away")
    assert stand(tmp_path, turn(True), away, away, turn(True), away, turn(True), turn(True)) == (True, 6)
    assert [record.message for record in caplog.records] == ["the line cannot be seen now: away"] * 2


def test_line_ends_with_a_request_to_stop(tmp_path: Path) -> None:
    assert stand(tmp_path, turn(False), turn(False), stop_after=2) == (False, 2)


def test_line_tells_what_it_waits_for_once_for_each_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    stand(tmp_path, turn(False), turn(False), turn(False, 1), turn(True, 2), turn(True, 2))
    told = [record.message for record in caplog.records]
    assert [line.rsplit("fit ", 1)[1][0] for line in told] == ["0", "1"]


def test_submission_s_files_are_kept_in_the_run_s_folder_and_found_by_name_folder_and_id(tmp_path: Path) -> None:
    out_dir = tmp_path / "runs/demo"
    (tmp_path / "files/model").mkdir(parents=True)
    (tmp_path / "files/headrace.run.yaml").write_text("name: demo\n")
    (tmp_path / "files/model/tokenizer.json").write_text("{}")
    first, second = (Submitted(ticket(number=n, out_dir=str(out_dir)), "http://head:8265") for n in (1, 2))
    keep_submitted(out_dir, tmp_path / "files", first)
    keep_submitted(out_dir, None, second)
    assert submitted_run_file(out_dir).read_text() == "name: demo\n"
    assert (out_dir / "submitted/model/tokenizer.json").read_text() == "{}"
    assert read_submitted(out_dir) == second
    assert submitted_here("demo", tmp_path / "runs") == submitted_here(str(out_dir), None) == second
    (out_dir / "run.json").write_text('{"run_id": "20260101-a", "name": "demo", "created": 1.0}')
    assert submitted_here("20260101-a-2", tmp_path / "runs") == second
    assert submitted_here("20260101-ab-2", tmp_path / "runs") is None


def test_entry_of_a_run_that_is_driven_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    order = RunOrder(ticket(out_dir=str(tmp_path)), "http://head:8265")
    with run_lock(tmp_path):
        ask_to_stop(tmp_path)
        assert run_job(order, tmp_path / "files", "head:1") == 2
    assert is_stop_asked(tmp_path)  # the other driver's
    assert read_submitted(tmp_path) is None


def test_driver_command_trains_by_the_kept_run_file_under_the_submission_s_id(tmp_path: Path) -> None:
    order = RunOrder(ticket(out_dir=str(tmp_path)), "http://head:8265", commit="abc", accept_changes=True)
    assert driver_command(order, "10.0.0.1:6379", TimeInLine(1.5, 3.25)) == [
        *(sys.executable, "-P", "-m", "cluster.cli", "run", str(tmp_path / "submitted/headrace.run.yaml")),
        *("--address", "10.0.0.1:6379", "--run-id", "20260101-a", "--commit", "abc", "--queued", "1.5", "3.25"),
        "--accept-changes",
    ]
    assert "--queued" not in driver_command(order, "10.0.0.1:6379", None)


def test_time_in_line_goes_from_the_server_s_time_of_the_submission_to_now(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = time.time() - 100.0
    server = SimpleNamespace(job=lambda job_id: job(submitted=submitted) if job_id == "20260101-a-1" else None)
    monkeypatch.setattr(standing, "JobServer", lambda head: server)
    found = time_in_line("20260101-a-1", "head:1")
    assert found is not None
    assert found.since == submitted
    assert 100.0 <= found.until - found.since < 160.0


def test_time_in_line_that_the_server_does_not_tell_is_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(head: str) -> None:
        raise ClusterError("nothing answers there")

    monkeypatch.setattr(standing, "JobServer", away)
    assert time_in_line("a-1", "head:1") is None
    assert "how long the run stood in line: nothing answers there" in caplog.text
    monkeypatch.setattr(standing, "JobServer", lambda head: SimpleNamespace(job=lambda job_id: job(submitted=0.0)))
    assert time_in_line("a-1", "head:1") is None


def test_time_in_line_is_told_once_for_each_submission_before_the_attempt_to_come(tmp_path: Path) -> None:
    first, second = TimeInLine(10.0, 40.0), TimeInLine(100.0, 101.5)
    for told in (first, first):
        tell_time_in_line(tmp_path, told)
    take_attempt(tmp_path)
    for told in (first, second):
        tell_time_in_line(tmp_path, told)
    found = [(record["attempt"], record["since"], record["seconds"]) for record in events(tmp_path, "queued")]
    assert found == [(1, 10.0, 30.0), (2, 100.0, 1.5)]
    assert goodput(read_records(tmp_path)).microseconds["queue"] == 31_500_000


def test_start_script_finds_the_interpreter_of_the_process_that_runs_ray(tmp_path: Path) -> None:
    """The job server's shell is a child of a Ray worker, and may have another Python on its path, or none."""
    write_order(tmp_path, RunOrder(ticket(), "http://head:8265"))
    script = (tmp_path / START_FILE).read_text().replace('exec "$python" -P -m cluster.jobs.entry', 'echo "$python"')
    (tmp_path / START_FILE).write_text(script)
    parent = f"import ray, subprocess; subprocess.run('exec sh ./{START_FILE}', shell=True, cwd={str(tmp_path)!r})"
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", parent], env=environment, capture_output=True, text=True, timeout=60)
    assert Path(done.stdout.strip()) == Path(sys.executable), done.stderr
