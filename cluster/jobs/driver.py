"""The driver of a job, kept alive by the job's entry process: the hands of cluster.jobs.driver_restarts."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from cluster.jobs.driver_restarts import DriverRestarts, Over
from cluster.jobs.job import FAILED, INTERRUPTED
from cluster.processes import die_with_parent
from trainer.run_lock import read_lease
from trainer.stop import is_stop_asked

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


class KeptDriver:
    """Runs a command until it ends well, or badly for good. Make and run it in the main thread.

    Ray ends a job by SIGTERM to all of its processes, so a signal to this one is not handed on; it forbids restarts.
    A stop that is asked for by the run's mark is the driver's to answer while it trains; before, while it prepares the
    corpus, it is interrupted: nothing is lost by that.

    folder: the driver's working folder. The one that travelled is Ray's, which may take it away.
    """

    def __init__(
        self,
        command: Sequence[str],
        out_dir: Path,
        budget: int,
        folder: Path,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._command = list(command)
        self._out_dir = out_dir
        self._folder = folder
        self._restarts = DriverRestarts(budget)
        self._pause = pause
        self._signalled = self._interrupted = False

    def run(self) -> int:
        """The job's exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        while True:
            began = time.monotonic()
            status = self._wait(self._start())
            self._restarts, action = self._restarts.after(status, time.monotonic() - began, self._is_stop_asked())
            if action.text:
                logger.warning("%s", action.text)
            if isinstance(action, Over):
                return action.exit_status
            self._pause(action.after_seconds)
            if self._is_stop_asked():  # a new driver would take the request for an older one's
                logger.warning("asked to stop while no driver ran; `headrace resume` goes on")
                return FAILED

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def _is_stop_asked(self) -> bool:
        return self._signalled or self._interrupted or is_stop_asked(self._out_dir)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=self._folder, preexec_fn=partial(die_with_parent, os.getpid()))

    def _wait(self, driver: subprocess.Popen[bytes]) -> int:
        has_trained = False
        while True:
            try:
                status = driver.wait(LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                has_trained = has_trained or self._is_training(driver.pid)
                if not has_trained and not self._interrupted and is_stop_asked(self._out_dir):
                    logger.warning("asked to stop before any rank trains: the driver is interrupted")
                    self._interrupted = True
                    driver.send_signal(signal.SIGTERM)
            else:
                return INTERRUPTED if self._interrupted and status == -signal.SIGTERM else status

    def _is_training(self, pid: int) -> bool:
        lease = read_lease(self._out_dir)
        return lease is not None and (lease.host, lease.pid) == (socket.gethostname(), pid)
