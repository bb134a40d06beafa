"""An MLflow server on loopback that can be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from cluster.errors import ClusterError
from monitoring.dashboard import dashboard_command, end_server, server_environment

READY_SECONDS = 90.0
_POLL_SECONDS = 0.1


class MlflowServer:
    """Serves one SQLite file at one port, which stays the same over its starts."""

    def __init__(self, database: Path, log: Path) -> None:
        self._database, self._log = database, log
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address, for `monitoring.tracking_uri`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def is_up(self) -> bool:
        """Whether it was started, and not killed or closed since."""
        return self._process is not None

    def start(self) -> None:
        """Start it, without waiting until it answers."""
        with self._log.open("ab") as file:
            self._process = subprocess.Popen(
                dashboard_command(f"sqlite:///{self._database}", port=self._port),
                env=server_environment(), stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip

    def wait_ready(self) -> None:
        """Wait until it answers; ClusterError if it does not."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(_POLL_SECONDS)
        raise ClusterError(f"the MLflow server for this command does not answer; the reason is in {self._log}")

    def kill(self) -> None:
        """SIGKILL it with all its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it in order."""
        if self._process is not None:
            end_server(self._process)
            self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
