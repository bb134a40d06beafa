"""MLflow's own pages on the right store, on this machine alone."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from monitoring.addresses import holds_secret, without_secrets
from monitoring.errors import MonitoringError
from monitoring.forward import ImportReport, import_journal
from monitoring.journal import attempt_paths
from monitoring.mlflow_store import ENVIRONMENT, artifact_root
from monitoring.runs import RUNS_DIR, RunFolder, list_runs
from monitoring.settings import MonitoringSettings, default_tracking_uri

logger = logging.getLogger(__name__)

_TERMINATE_SECONDS = 10.0

# One worker serves one person; without the job runners the server has two processes less and starts sooner.
_SERVER_ENVIRONMENT = {**ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def dashboard_command(tracking_uri: str, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """The command that serves a database store; MonitoringError if the address is that of a server already."""
    if tracking_uri.startswith(("http://", "https://")):
        raise MonitoringError(
            f"monitoring.tracking_uri: a dashboard is served from a database, found the server "
            f"{without_secrets(tracking_uri)}; open that address in a browser"
        )
    if holds_secret(tracking_uri):
        raise MonitoringError(
            f"--tracking-uri {without_secrets(tracking_uri)}: must hold no password, since all users of a machine see "
            f"the arguments of its processes; set PGPASSWORD (or the database's own variable) in the environment"
        )
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri]
    root = artifact_root(tracking_uri)
    if root is not None:
        command += ["--default-artifact-root", root]
    return [*command, "--host", host, "--port", str(port), "--workers", "1"]


def server_environment() -> dict[str, str]:
    """The environment for `dashboard_command`: no telemetry, no job runners."""
    return {**os.environ, **_SERVER_ENVIRONMENT}


def import_runs(
    runs: Sequence[RunFolder], tracking_uri: str, is_driven: Callable[[Path], bool] = lambda out_dir: True
) -> list[ImportReport]:
    """Brings the store up to the journals of those runs whose run file names it (or names none).

    `is_driven`: whether someone drives the run of a folder; one that nobody drives and that has no end is marked so.
    """
    reports = []
    for run in runs:
        if _uri(run) == tracking_uri and attempt_paths(run.out_dir):
            reports.append(import_run(run, is_driven(run.out_dir)))
    return reports


def import_run(run: RunFolder, is_driven: bool) -> ImportReport:
    """Brings the store that a run's file names up to its journal; MonitoringError as `import_journal`."""
    return import_journal(run.out_dir, _uri(run), _settings(run).experiment, is_driven=is_driven)


def _uri(run: RunFolder) -> str:
    return _settings(run).tracking_uri or default_tracking_uri(run.out_dir)


def _settings(run: RunFolder) -> MonitoringSettings:
    return MonitoringSettings.model_validate(run.settings().get("monitoring") or {})


def serve(
    tracking_uri: str | None = None,
    *,
    runs_dir: Path = RUNS_DIR,
    host: str = "127.0.0.1",
    port: int = 5000,
    is_driven: Callable[[Path], bool] = lambda out_dir: True,
) -> int:
    """Imports the journals of `runs_dir`, then serves its store until Ctrl-C; returns the server's exit status.

    `tracking_uri` None: the store that the runs of `runs_dir` share. MonitoringError if there is nothing to serve.
    """
    uri = tracking_uri or default_tracking_uri(runs_dir / "any")
    command = dashboard_command(uri, host, port)
    _refuse_busy_port(host, port)
    runs = list_runs(runs_dir)
    if not runs and tracking_uri is None:
        raise MonitoringError(
            f"{runs_dir.absolute()}: must hold runs to show, found none; start one, or give their folder"
        )
    reports = import_runs(runs, uri, is_driven)
    logger.info("%d runs looked at, %d values brought over", len(reports), sum(report.points for report in reports))
    logger.info("dashboard: http://%s:%d (Ctrl-C ends it)", host, port)
    return _run_until_interrupted(command)


def _refuse_busy_port(host: str, port: int) -> None:
    """MonitoringError where something listens already: MLflow would say so and still end well."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise MonitoringError(f"--port {port}: must be free, but: {error.strerror}; give another port") from error


def _run_until_interrupted(command: Sequence[str]) -> int:
    process = subprocess.Popen(command, env=server_environment())
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        end_server(process)


def end_server(process: subprocess.Popen[bytes]) -> None:
    """Ends a server that `dashboard_command` started, gently first."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
