"""The dashboard on the right store."""

from __future__ import annotations

import json
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import monitoring.dashboard as dashboard
from monitoring.dashboard import dashboard_command, import_runs, serve, server_environment
from monitoring.errors import MonitoringError
from monitoring.forward import ImportReport
from monitoring.runs import RunFolder, create_run_folder
from tests.monitoring.journals import end, start, step, write_journal
from tests.monitoring.processes import free_port, process, wait_until


def test_dashboard_command_is_bound_to_this_machine_and_to_the_store() -> None:
    command = dashboard_command("sqlite:////srv/runs/mlflow.db", port=5050)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options == {
        "--backend-store-uri": "sqlite:////srv/runs/mlflow.db",
        "--default-artifact-root": "file:///srv/runs/mlartifacts",
        "--host": "127.0.0.1",
        "--port": "5050",
        "--workers": "1",
    }


def test_dashboard_command_of_a_server_is_refused() -> None:
    with pytest.raises(MonitoringError, match="open that address in a browser"):
        dashboard_command("http://mlflow.example:5000")


def test_server_environment_reports_to_nobody() -> None:
    environment = server_environment()
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == environment["DO_NOT_TRACK"] == "true"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_serve_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MonitoringError, match="must hold runs to show"):
        serve(runs_dir=tmp_path)


def test_import_runs_takes_those_with_a_journal_that_name_this_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[tuple[str, str, str]] = []

    def fake_import(out_dir: Path, tracking_uri: str, experiment: str, *, is_driven: bool) -> ImportReport:
        imported.append((out_dir.name, tracking_uri, experiment))
        return ImportReport("id", "mlflow", 1, None)

    monkeypatch.setattr(dashboard, "import_journal", fake_import)
    here = f"sqlite:///{tmp_path}/mlflow.db"
    runs = [
        make_run(tmp_path, "default", ""),
        make_run(tmp_path, "same", f"monitoring: {{tracking_uri: '{here}', experiment: mine}}"),
        make_run(tmp_path, "elsewhere", "monitoring: {tracking_uri: 'http://server:5000'}"),
        create_run_folder(tmp_path / "unstarted", None, "unstarted", "a: 1"),
    ]
    assert len(import_runs(runs, here)) == 2
    assert imported == [("default", here, "headrace"), ("same", here, "mine")]


def make_run(runs_dir: Path, name: str, run_file: str) -> RunFolder:
    run = create_run_folder(runs_dir / name, f"id-{name}", name, run_file or "name: x\n")
    write_journal(run.out_dir, start(run_id=f"id-{name}", name=name), step(1), step(2), end(2))
    return run


# The interrupt is asked for by name: a job in the background of a shell inherits that it is ignored.
_SERVE = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from monitoring.dashboard import serve
sys.exit(serve(runs_dir=Path(sys.argv[1]), port=int(sys.argv[2])))
"""


@pytest.mark.slow
def test_serve_imports_the_journals_answers_and_ends_on_interrupt(out_dir: Path) -> None:
    runs_dir, port = out_dir.parent, free_port()
    make_run(runs_dir, "alpha", "")
    make_run(runs_dir, "beta", "")
    with process("-c", _SERVE, str(runs_dir), str(port), stderr=runs_dir / "serve.log") as server:
        wait_until(lambda: answers(port) or server.poll() is not None)
        [experiment] = ask(port, "experiments/get-by-name?experiment_name=headrace", None).values()
        found = ask(port, "runs/search", {"experiment_ids": [experiment["experiment_id"]]})["runs"]
        assert sorted(run["info"]["run_name"] for run in found) == ["alpha", "beta"]
        assert {metric["key"]: metric["value"] for metric in found[0]["data"]["metrics"]}["loss"] == 9.0 - 0.02
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    assert not answers(port)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ask(port: int, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/2.0/mlflow/{path}", data, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))


def test_dashboard_command_of_a_store_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(MonitoringError, match=r"postgresql://me:\.\.\.@host/d: must hold no password") as caught:
        dashboard_command("postgresql://me:s3cret@host/d")
    assert "s3cret" not in str(caught.value)
