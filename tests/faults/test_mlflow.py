"""MLflow away, killed, locked: the journal's writer never waits, and MLflow ends with each metric at each step once.

Most of it needs no training: what writes the journal at a pace does what a rank does. MLflow's stores are real, and
are read past MLflow.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from monitoring.dashboard import dashboard_command, end_server, server_environment
from monitoring.journal import FileJournal, Record, attempt_path, read_records
from monitoring.ledger import compare_ledgers, ledger, problems
from monitoring.runs import create_run_folder
from monitoring.sender import finish_sender, start_sender
from monitoring.settings import MonitoringSettings
from tests.end_to_end.headrace import headrace, run_file, steps
from tests.monitoring.journals import end, step
from tests.monitoring.journals import start as start_event
from tests.monitoring.processes import ROOT, free_port, wait_until
from tests.monitoring.stores import statuses, stored

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300)]

DEMO_STEP_SECONDS = 0.66  # of recipes/demo.yaml on two cores
METRICS = ("loss", "lr", "grad_norm", "tokens", "tokens_per_second", "mfu", "memory_bytes", "step_seconds")


class Writer:
    """Writes a journal as rank 0 does, and measures how long each record holds it up."""

    def __init__(self, out_dir: Path, attempt: int = 1, first: int = 1) -> None:
        self._journal = FileJournal(attempt_path(out_dir, attempt))
        self._attempt, self.number = attempt, first - 1
        self.emit_seconds: list[float] = []
        self._write(start_event(attempt, first - 1))

    def run(self, number: int, pace_seconds: float = 0.005) -> None:
        """So many steps."""
        for _ in range(number):
            self.number += 1
            self._write(step(self.number, self._attempt, loss=9.0 / self.number))
            time.sleep(pace_seconds)

    def end(self) -> None:
        self._write(end(self.number, self._attempt))

    def _write(self, record: Record) -> None:
        began = time.perf_counter()
        self._journal.write({**record, "time": time.time()})
        self.emit_seconds.append(time.perf_counter() - began)


@contextmanager
def server(database: Path, port: int) -> Iterator[Callable[[], None]]:
    """`mlflow server` on a database; what is yielded kills it with all its processes."""
    process = subprocess.Popen(
        dashboard_command(f"sqlite:///{database}", port=port), env=server_environment(), start_new_session=True
    )

    def kill() -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    try:
        yield kill
    finally:
        end_server(process)


def listens(port: int) -> bool:
    """Whether someone takes connections at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def sender(out_dir: Path, uri: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The process that sends a run, as a driver starts it; killed at the end if it still runs."""
    process = start_sender(out_dir, MonitoringSettings(tracking_uri=uri))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def assert_each_point_once(database: Path, last_step: int) -> None:
    """No gap and no double, of any metric."""
    times = stored(database)
    assert set(times.values()) == {1}
    for metric in METRICS:
        assert sorted(number for key, number in times if key == metric) == list(range(1, last_step + 1)), metric


def test_mlflow_server_killed_in_mid_batch_and_back_no_gap_and_no_double(out_dir: Path) -> None:
    database, port = out_dir.parent / "mlflow.db", free_port()
    with sender(out_dir, f"http://127.0.0.1:{port}") as process:
        writer = Writer(out_dir)
        with server(database, port) as kill:
            writer.run(300)
            wait_until(lambda: len(stored(database)) > 0)
            writer.run(600, pace_seconds=0.0)  # three batches, in one of which it is killed
            wait_until(lambda: len(stored(database)) > 10 * 301)
            kill()
        partly = len(stored(database))
        writer.run(300)
        with server(database, port):
            writer.run(100)
            writer.end()
            wait_until(lambda: statuses(database) == [("demo", "FINISHED")])
            assert finish_sender(process) == 0
    assert partly < 10 * writer.number
    assert_each_point_once(database, writer.number)
    assert max(writer.emit_seconds) < 2.0  # of a disk, not of a server that is away


@pytest.mark.long
def test_mlflow_away_all_run_the_command_that_sends_the_rest_is_told_and_sends_it(out_dir: Path) -> None:
    database, port = out_dir.parent / "mlflow.db", free_port()
    create_run_folder(out_dir, None, "demo", f"monitoring: {{tracking_uri: 'http://127.0.0.1:{port}'}}\n")
    with sender(out_dir, f"http://127.0.0.1:{port}") as process:
        writer = Writer(out_dir)
        writer.run(100)
        writer.end()
        assert finish_sender(process) == 1
    refused = headrace("sync", out_dir)
    assert refused.returncode == 2
    assert f"must be a store that can be written, found 'http://127.0.0.1:{port}'" in refused.stderr
    assert not stored(database)
    with server(database, port):
        wait_until(lambda: listens(port))
        sent = headrace("sync", out_dir)
    assert sent.stdout == f"demo: {100 * 10 + 1:,} values sent; FINISHED in MLflow\n", sent.stderr
    assert_each_point_once(database, 100)


@pytest.mark.long
def test_mlflow_sender_killed_at_any_moment_no_gap_and_no_double(out_dir: Path) -> None:
    database, generator = out_dir.parent / "mlflow.db", random.Random(7)
    writer = Writer(out_dir)
    for _ in range(3):
        writer.run(400, pace_seconds=0.0)
        before = len(stored(database))
        with sender(out_dir) as process:
            wait_until(lambda known=before: len(stored(database)) > known)  # type: ignore[misc]
            time.sleep(generator.uniform(0.0, 0.3))
            process.kill()
    with sender(out_dir) as process:
        writer.end()
        wait_until(lambda: statuses(database) == [("demo", "FINISHED")])
        assert finish_sender(process) == 0
    assert_each_point_once(database, 1200)


@pytest.mark.long
def test_mlflow_sqlite_locked_by_another_writer_training_goes_on_and_all_is_there_later(out_dir: Path) -> None:
    database = out_dir.parent / "mlflow.db"
    with sender(out_dir) as process:
        writer = Writer(out_dir)
        writer.run(50)
        wait_until(lambda: len(stored(database)) > 10 * 50)
        other = sqlite3.connect(database, timeout=20)
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        writer.run(400, pace_seconds=0.02)
        held_seconds = time.monotonic() - began
        other.rollback()
        other.close()
        writer.end()
        assert finish_sender(process, timeout_seconds=30.0) == 0
    assert held_seconds > 6.0  # longer than SQLite's own patience
    assert_each_point_once(database, 450)
    assert max(writer.emit_seconds) < 2.0


@pytest.mark.long
def test_mlflow_overhead_is_below_one_percent_of_a_step(out_dir: Path) -> None:
    """What a step pays: its record's write, and the processor time that the sender takes from it."""
    database = out_dir.parent / "mlflow.db"
    with sender(out_dir) as process:
        writer = Writer(out_dir)
        writer.run(20)
        wait_until(lambda: len(stored(database)) > 10 * 20)
        before, began = _cpu_seconds(process.pid), writer.number
        writer.run(100, pace_seconds=0.1)
        spent = (_cpu_seconds(process.pid) - before) / (writer.number - began)
        writer.end()
        assert finish_sender(process) == 0
    emit = statistics.fmean(sorted(writer.emit_seconds)[: int(0.9 * len(writer.emit_seconds))])
    assert emit < 0.001 * DEMO_STEP_SECONDS
    assert emit + spent < 0.01 * DEMO_STEP_SECONDS


def _cpu_seconds(pid: int) -> float:
    """Of all threads of a process, from the scheduler's own count of nanoseconds."""
    counts = [path.read_text().split()[0] for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(map(int, counts)) / 1e9


_DRIVER = """
import sys, time
from pathlib import Path
from monitoring.sender import start_sender
from monitoring.settings import MonitoringSettings
sender = start_sender(Path(sys.argv[1]), MonitoringSettings())
print(sender.pid, flush=True)
time.sleep(600)
"""


@contextmanager
def driver(out_dir: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process with a sender, and the sender's id; both killed at the end."""
    command = [sys.executable, "-c", _DRIVER, str(out_dir)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    sender_pid = int(process.stdout.readline())
    try:
        yield process, sender_pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.long
def test_mlflow_run_that_died_without_an_end_is_failed_there_and_running_again_when_it_goes_on(out_dir: Path) -> None:
    database = out_dir.parent / "mlflow.db"
    create_run_folder(out_dir, "20250101-0123456789ab", "demo", "monitoring: {}\n")
    with driver(out_dir) as (process, _):
        Writer(out_dir).run(20)
        wait_until(lambda: statuses(database) == [("demo", "RUNNING")])
        process.kill()
        wait_until(lambda: statuses(database) == [("demo", "FAILED")])  # by the sender, which outlives it for that
    with driver(out_dir) as (process, sender_pid):
        Writer(out_dir, attempt=2, first=11).run(30)
        wait_until(lambda: statuses(database) == [("demo", "RUNNING")] and stored(database)["loss", 40] == 1)
        os.kill(sender_pid, signal.SIGKILL)  # and now nobody is left to tell
        process.kill()
    assert statuses(database) == [("demo", "RUNNING")]
    shown = headrace("status", out_dir)
    assert "failed its driver ended without a word" in shown.stdout
    assert headrace("sync", out_dir).stdout.endswith("FAILED in MLflow\n")
    assert statuses(database) == [("demo", "FAILED")]
    with driver(out_dir):
        writer = Writer(out_dir, attempt=3, first=41)
        writer.run(10)
        wait_until(lambda: statuses(database) == [("demo", "RUNNING")])
        writer.end()
        wait_until(lambda: statuses(database) == [("demo", "FINISHED")])
    assert_each_point_once(database, 50)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_mlflow_away_a_real_run_has_the_losses_of_one_that_had_it(tmp_path: Path) -> None:
    few = {"train__max_steps": 12, "eval__interval": 12}
    away = f"http://127.0.0.1:{free_port()}"
    calm = headrace("train", run_file(tmp_path, "calm", **few))
    lonely = headrace("train", run_file(tmp_path, "lonely", **few, monitoring={"tracking_uri": away}))
    assert (calm.returncode, lonely.returncode) == (0, 0), lonely.stderr
    assert lonely.stderr.count(f"MLflow at {away} cannot be used now") == 1
    assert f"`headrace sync {tmp_path / 'runs/lonely'}` sends the rest" in lonely.stderr
    assert "headrace sync" not in calm.stderr
    losses = [[record["loss_hex"] for record in steps(tmp_path / "runs" / name)] for name in ("calm", "lonely")]
    assert losses[0] == losses[1] and len(losses[0]) == 12
    books = [ledger(read_records(tmp_path / "runs" / name)) for name in ("calm", "lonely")]
    assert compare_ledgers(*books).is_empty
    assert [problems(book) for book in books] == [[], []]
    status = json.loads(headrace("status", tmp_path / "runs/lonely", "--json").stdout)
    assert (status["state"], status["step"], status["attempts"], status["checkpoint_step"]) == ("finished", 12, 1, 12)
    spent = status["goodput"]
    assert sum(spent["seconds"].values()) == pytest.approx(spent["wall_seconds"])
    assert 0.0 < spent["ratio"] < 1.0 and spent["seconds"]["load"] > 0.0
