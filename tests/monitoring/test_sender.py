"""The sender: its loop with a stand-in for MLflow, and the process with real stores."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import monitoring.send_loop as send_loop
import monitoring.sender as sender_module
from monitoring.dashboard import dashboard_command, end_server, server_environment
from monitoring.journal import attempt_paths, node_path, sender_lock
from monitoring.send_loop import SendLoop
from monitoring.sender import main, wait_for_parent
from monitoring.settings import MonitoringSettings
from monitoring.system_metrics import sample_record
from tests.monitoring.journals import dataset_facts, end, model_event, step, write_journal
from tests.monitoring.journals import start as start_event
from tests.monitoring.processes import free_port, process, wait_until
from tests.monitoring.stores import FakeRun, statuses, stored


def sizes(out_dir: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in attempt_paths(out_dir)}


class Script:
    """Plays the parent: each `wait` does the next thing; at the end of the script the parent is gone."""

    def __init__(self, *things: Callable[[], None], last: Callable[[], None] = lambda: None) -> None:
        self.things = list(things)
        self.last = last
        self.pauses: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        if not self.things:
            self.last()
            return True
        self.things.pop(0)()
        return False


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    fake = FakeRun()
    monkeypatch.setattr(send_loop.MlflowRun, "open", lambda *arguments: fake)
    monkeypatch.setattr(send_loop, "setproctitle", lambda title: None)
    return fake


def test_sender_ends_by_itself_after_the_end_event_with_a_plot(tmp_path: Path, run: FakeRun) -> None:
    script = Script(
        lambda: None,  # the journal is not there yet
        lambda: write_journal(tmp_path, start_event(), step(1)),
        lambda: write_journal(tmp_path, step(2), end(2)),
        lambda: pytest.fail("the sender went on after the end"),
    )
    SendLoop(tmp_path, "http://x", "e", script).run({})
    assert run.statuses == ["RUNNING", "FINISHED"]
    assert run.files == ["loss.png", "goodput.png"]
    assert script.pauses == [2.0, 2.0, 2.0]


def test_sender_waits_for_the_first_step_and_not_for_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_journal(tmp_path, start_event(), step(1), end(1, status="stopped"))
    script = Script(
        lambda: None,
        lambda: write_journal(tmp_path, start_event(2, 1)),
        lambda: write_journal(tmp_path, step(2, 2)),
        lambda: pytest.fail("the sender waited on after a step"),
    )
    monkeypatch.setattr(sender_module, "wait_for_parent", script)
    sender_module._wait_for_work(tmp_path, sizes(tmp_path))
    assert len(script.pauses) == 3


def test_sender_waits_for_no_step_once_its_parent_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(lambda: None)
    monkeypatch.setattr(sender_module, "wait_for_parent", script)
    sender_module._wait_for_work(tmp_path, {})
    assert len(script.pauses) == 2


def test_sender_old_end_does_not_stop_a_resumed_run(tmp_path: Path, run: FakeRun) -> None:
    write_journal(tmp_path, start_event(), step(1), end(1, status="stopped"))
    script = Script(
        lambda: None,
        lambda: write_journal(tmp_path, start_event(2, 1), step(2, 2)),
        lambda: write_journal(tmp_path, end(2, 2)),
    )
    SendLoop(tmp_path, "http://x", "e", script).run(sizes(tmp_path))
    assert run.statuses == ["KILLED", "RUNNING", "FINISHED"]
    assert len(script.pauses) == 3


def test_sender_parent_gone_sends_what_is_there(tmp_path: Path, run: FakeRun) -> None:
    script = Script(lambda: write_journal(tmp_path, start_event()), last=lambda: write_journal(tmp_path, step(1)))
    assert SendLoop(tmp_path, "http://x", "e", script).run({}) is True
    assert run.times_stored()["loss", 1] == 1
    assert run.statuses == ["RUNNING", "FAILED"]


def test_sender_goes_on_after_an_old_end_though_a_nodes_samples_were_sent(tmp_path: Path, run: FakeRun) -> None:
    write_journal(tmp_path, start_event(), step(1), end(1, status="stopped"))
    node_path(tmp_path, "n1").write_text(json.dumps(sample_record("n1", {"x": 1.0}, 5.0)) + "\n")
    script = Script(lambda: None, lambda: write_journal(tmp_path, start_event(2, 1), step(2, 2), end(2, 2)))
    SendLoop(tmp_path, "http://x", "e", script).run(sizes(tmp_path))
    assert run.statuses == ["KILLED", "FINISHED"]


def test_sender_mlflow_away_at_the_end_loses_neither_model_nor_samples(tmp_path: Path, run: FakeRun) -> None:
    away = {"now": True}
    run.fails = lambda: away["now"]
    write_journal(tmp_path, start_event(), step(1), end(1), model_event(tmp_path, 1))
    node_path(tmp_path, "n1").write_text(json.dumps(sample_record("n1", {"x": 1.0}, 5.0)) + "\n")
    SendLoop(tmp_path, "http://x", "e", Script(lambda: None, lambda: away.update(now=False))).run({})
    assert [model.key for model in run.models] == ["step-00000001"]
    assert run.times_stored()["system/n1/x", 0] == 1


def test_sender_parent_gone_leaves_a_run_alone_that_another_driver_has_taken_up(tmp_path: Path, run: FakeRun) -> None:
    write_journal(tmp_path, start_event(), step(1))
    taken_up = iter([lambda: write_journal(tmp_path, start_event(2, 1))])

    def fails() -> bool:
        next(taken_up, lambda: None)()
        return False

    run.fails = fails  # the other driver comes while the last points are sent
    SendLoop(tmp_path, "http://x", "e", Script()).run({})
    assert "FAILED" not in run.statuses
    SendLoop(tmp_path, "http://x", "e", Script(lambda: write_journal(tmp_path, end(1, 2)))).run({})
    assert run.statuses[-2:] == ["RUNNING", "FINISHED"]


def test_sender_run_marked_as_failed_is_running_again_when_its_next_sender_comes(tmp_path: Path, run: FakeRun) -> None:
    write_journal(tmp_path, start_event(), step(1))
    SendLoop(tmp_path, "http://x", "e", Script()).run({})
    SendLoop(tmp_path, "http://x", "e", Script(lambda: write_journal(tmp_path, start_event(2, 1), end(1, 2)))).run({})
    assert run.statuses == ["RUNNING", "FAILED", "RUNNING", "FINISHED"]


def test_sender_mlflow_away_is_said_once_and_tried_ever_more_rarely(
    tmp_path: Path, run: FakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    away = {"now": True}
    run.fails = lambda: away["now"]
    write_journal(tmp_path, start_event(), step(1))
    script = Script(*[lambda: None] * 6, lambda: away.update(now=False), lambda: write_journal(tmp_path, end(1)))
    with caplog.at_level(logging.INFO):
        SendLoop(tmp_path, "http://x", "e", script).run({})
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "http://x cannot be used now (away)" in caplog.text
    assert script.pauses == [2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0, 2.0]
    assert set(run.times_stored().values()) == {1}


def test_sender_parent_gone_and_mlflow_away_ends_at_the_deadline(
    tmp_path: Path, run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr(send_loop.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(send_loop.time, "sleep", lambda seconds: clock.update(now=clock["now"] + seconds))
    run.fails = lambda: True
    write_journal(tmp_path, start_event(), step(1))
    assert SendLoop(tmp_path, "http://x", "e", Script()).run({}) is False
    assert clock["now"] == 10.0
    assert not run.points


def test_main_wrong_tracking_uri_is_said_and_exits_2(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    previous = signal.getsignal(signal.SIGINT)
    try:
        assert main(["--out-dir", str(tmp_path), "--tracking-uri", "mlruns"]) == 2
    finally:
        signal.signal(signal.SIGINT, previous)
    assert "sqlite:///FILE" in caplog.text


def test_wait_for_parent_input_that_ends_sets_a_hard_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timers: list[float] = []
    monkeypatch.setattr(sender_module.signal, "setitimer", lambda which, seconds: timers.append(seconds))
    (tmp_path / "input").write_bytes(b"noise that is no end")
    with (tmp_path / "input").open() as file:
        monkeypatch.setattr(sender_module.sys, "stdin", file)
        assert wait_for_parent(60.0) is True
    assert timers == [15.0]


def is_being_sent(out_dir: Path) -> bool:
    """Whether a sender is at work, and so has looked at the journal."""
    with sender_lock(out_dir) as held:
        return not held


def start_sender(out_dir: Path, *options: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    errors = out_dir.parent / "sender.log"
    return process("-m", "monitoring.sender", "--out-dir", str(out_dir), *options, stderr=errors)


@pytest.mark.slow
def test_sender_process_killed_half_way_and_started_again_each_step_once(out_dir: Path) -> None:
    database, steps = out_dir.parent / "mlflow.db", 1500
    write_journal(out_dir, start_event(), *[step(i) for i in range(1, 1001)])
    write_journal(out_dir, start_event(2, 700), *[step(i, 2) for i in range(701, steps + 1)])
    with start_sender(out_dir) as first:
        wait_until(lambda: len(stored(database)) > 3000)
        first.send_signal(signal.SIGKILL)
    partly = len(stored(database))
    with start_sender(out_dir) as second:
        wait_until(lambda: is_being_sent(out_dir))
        with start_sender(out_dir) as third:
            write_journal(out_dir, end(steps, 2))
            assert second.wait(60) == 0
            assert third.stdin is not None
            third.stdin.close()  # it waits for its turn, finds all sent, and its parent goes
            assert third.wait(60) == 0
    times = stored(database)
    assert 3000 < partly < len(times)
    assert set(times.values()) == {1}
    assert {number for key, number in times if key == "loss"} == set(range(1, steps + 1))
    assert {number for key, number in times if key == "sequence_hash"} == set(range(1, steps + 1))
    assert statuses(database) == [("demo", "FINISHED")]


@pytest.mark.slow
def test_start_and_finish_sender_elsewhere_sends_all(out_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out_dir.parent / "monitoring").mkdir()  # a folder of the user's that bears our name
    (out_dir.parent / "monitoring" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(out_dir.parent)
    sender = sender_module.start_sender(Path("run"), MonitoringSettings(experiment="mine"))
    write_journal(out_dir, start_event(), *[step(i) for i in range(1, 11)])
    assert sender_module.finish_sender(sender) == 0
    assert len(stored(out_dir.parent / "mlflow.db")) == 101
    assert statuses(out_dir.parent / "mlflow.db") == [("demo", "FAILED")]  # its driver has gone without an end


def test_finish_sender_that_does_not_end_kills_it() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE)
    assert sender_module.finish_sender(sleeper, timeout_seconds=0.1) == -signal.SIGKILL


@pytest.mark.slow
def test_sender_process_server_away_at_first_gets_everything_later(out_dir: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    log = out_dir.parent / "sender.log"
    write_journal(out_dir, start_event(datasets=[dataset_facts()]), *[step(i) for i in range(1, 21)], end(20))
    write_journal(out_dir, model_event(out_dir, 20))
    node_path(out_dir, "n1").write_text(json.dumps(sample_record("n1", {"disk_usage_percentage": 50.0}, 5.0)) + "\n")
    (out_dir / "model").mkdir()
    (out_dir / "model/config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    with start_sender(out_dir, "--tracking-uri", uri, "--experiment", "remote") as sender:
        wait_until(lambda: log.exists() and "cannot be used now" in log.read_text())
        database = shutil.move(out_dir.parent / "mlflow.db", out_dir.parent / "server.db")
        server = subprocess.Popen(dashboard_command(f"sqlite:///{database}", port=port), env=server_environment())
        try:
            wait_until(
                lambda: (
                    statuses(database) == [("demo", "FINISHED")]
                    and artifacts(uri) == ["goodput.png", "loss.png", "run.yaml"]
                )
            )
            found = run_of(uri)
            assert [used["dataset"]["name"] for used in found["inputs"]["dataset_inputs"]] == ["mill/train"]
            [logged] = found["outputs"]["model_outputs"]
            [model] = [post_model["info"] for post_model in models(uri, found["info"]["experiment_id"])]
            assert (model["model_id"], model["status"]) == (logged["model_id"], "LOGGED_MODEL_READY")
        finally:
            end_server(server)
        assert sender.stdin is not None
        sender.stdin.close()
        assert sender.wait(60) == 0
    assert log.read_text().count("cannot be used now") == 1
    times = stored(database)
    assert set(times.values()) == {1}
    assert {number for key, number in times if key == "loss"} == set(range(1, 21))
    assert times["system/n1/disk_usage_percentage", 0] == 1


def models(uri: str, experiment_id: str) -> list[dict[str, Any]]:
    """The logged models of an experiment of a server."""
    found = post(f"{uri}/api/2.0/mlflow/logged-models/search", {"experiment_ids": [experiment_id]})
    return list(found["models"])


def run_of(uri: str) -> dict[str, Any]:
    """The one run in a server's experiment "remote"."""
    [experiment] = post(f"{uri}/api/2.0/mlflow/experiments/search", {"max_results": 1, "filter": "name = 'remote'"})[
        "experiments"
    ]
    body = {"experiment_ids": [experiment["experiment_id"]]}
    [found] = post(f"{uri}/api/2.0/mlflow/runs/search", body)["runs"]
    return dict(found)


def artifacts(uri: str) -> list[str]:
    """The names of the artefacts of that run."""
    run_id = run_of(uri)["info"]["run_id"]
    with urllib.request.urlopen(f"{uri}/api/2.0/mlflow/artifacts/list?run_id={run_id}") as answer:
        return sorted(file["path"] for file in json.load(answer).get("files", []))


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON answer of a server."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return dict(json.load(answer))
