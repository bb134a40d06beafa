"""The sender's loop: sends a run's journal as it grows, and is patient with MLflow."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from setproctitle import setproctitle

from monitoring.forward import Forwarder, Identity, identify
from monitoring.mlflow_store import MlflowRun, StoreErrors

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
DRAIN_SECONDS = 10.0
_LONGEST_WAIT_SECONDS = 10.0


class SendLoop:
    """Sends one run. `wait(seconds)` pauses and returns True once the parent is gone."""

    def __init__(self, out_dir: Path, tracking_uri: str, experiment: str, wait: Callable[[float], bool]) -> None:
        """Opens nothing yet."""
        self._out_dir = out_dir
        self._uri = tracking_uri
        self._experiment = experiment
        self._wait = wait
        self._forwarder: Forwarder | None = None
        self._failures = 0
        self._plot_is_due = False
        self._deadline = math.inf  # on time.monotonic's clock

    def run(self, known: Mapping[str, int]) -> None:
        """Sends until the run's end, or until the parent is gone; `known`: sizes of the journal's files at the start.

        An end in that part is of an earlier life of the run, which goes on now.
        """
        while not self._wait(self._pause_seconds()):
            if self._try_all() and self._is_over(known):
                return
        self._deadline = time.monotonic() + DRAIN_SECONDS
        while not self._try_all() and time.monotonic() < self._deadline:
            time.sleep(0.5)

    def _pause_seconds(self) -> float:
        return min(POLL_SECONDS * 2.0 ** min(self._failures, 10), _LONGEST_WAIT_SECONDS)

    def _try_all(self) -> bool:
        """Sends what there is; False if MLflow cannot be used now."""
        try:
            self._send_all()
        except StoreErrors as error:
            if self._failures == 0:
                logger.warning(
                    "MLflow at %s cannot be used now (%s); the training goes on, its metrics follow from the journal",
                    self._uri,
                    error,
                )
            self._failures += 1
            return False
        if self._failures:
            logger.info("MLflow at %s is there again, the metrics that waited are sent", self._uri)
        self._failures = 0
        return True

    def _send_all(self) -> None:
        if self._forwarder is None:
            identity = identify(self._out_dir)
            if identity is None:
                return
            self._forwarder = self._open(identity)
        while time.monotonic() < self._deadline and self._forwarder.forward():
            self._plot_is_due = True
        if self._has_ended() and self._plot_is_due:
            self._forwarder.add_plot()
            self._plot_is_due = False

    def _open(self, identity: Identity) -> Forwarder:
        start_time_ms = identity.start_time_ms
        run = MlflowRun.open(self._uri, self._experiment, identity.run_id, identity.name, start_time_ms)
        setproctitle(f"headrace: sender of {identity.name}")
        return Forwarder(self._out_dir, run)

    def _has_ended(self) -> bool:
        return self._forwarder is not None and self._forwarder.status not in (None, "RUNNING")

    def _is_over(self, known: Mapping[str, int]) -> bool:
        if self._forwarder is None or not self._has_ended():
            return False
        return any(end > known.get(name, 0) for name, end in self._forwarder.positions.items())
