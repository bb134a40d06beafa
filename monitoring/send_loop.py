"""The sender's loop: sends a run's journal as it grows, and is patient with MLflow."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from setproctitle import setproctitle

from monitoring.forward import Forwarder, Identity, identify
from monitoring.history import read_fence
from monitoring.journal import attempt_paths
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

    def run(self, known: Mapping[str, int]) -> bool:
        """Sends until the run's end, or until the parent is gone; `known`: sizes of the journal's files at the start.

        An end in that part is of an earlier life of the run, which goes on now. A run whose parent has gone without
        an end is marked as failed, unless another driver has taken it up meanwhile. Returns whether all was sent.
        """
        while not self._wait(self._pause_seconds()):
            if self._try_all() and self._is_over(known):
                return True
        self._deadline = time.monotonic() + DRAIN_SECONDS
        newest = self._newest_attempt()
        while not (is_sent := self._try_all(lambda: self._bury(newest))) and time.monotonic() < self._deadline:
            time.sleep(0.5)
        return is_sent

    def _pause_seconds(self) -> float:
        return min(POLL_SECONDS * 2.0 ** min(self._failures, 10), _LONGEST_WAIT_SECONDS)

    def _try_all(self, afterwards: Callable[[], None] = lambda: None) -> bool:
        """Sends what there is, and does what comes after it; False if MLflow cannot be used now, or time is up."""
        try:
            if not self._send_all():
                return False
            afterwards()
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

    def _send_all(self) -> bool:
        if self._forwarder is None:
            identity = identify(self._out_dir)
            if identity is None:
                return True
            self._forwarder = self._open(identity)
        while self._forwarder.forward():
            self._plot_is_due = True
            if time.monotonic() >= self._deadline:
                return False
        if self._has_ended() and self._plot_is_due:
            self._forwarder.add_plot()
            self._plot_is_due = False
        return True

    def _open(self, identity: Identity) -> Forwarder:
        start_time_ms = identity.start_time_ms
        run = MlflowRun.open(self._uri, self._experiment, identity.run_id, identity.name, start_time_ms)
        setproctitle(f"headrace: sender of {identity.name}")
        forwarder = Forwarder(self._out_dir, run)
        forwarder.say_running()
        return forwarder

    def _bury(self, newest_attempt: int) -> None:
        """Marks a run that has no end as failed, if no attempt is newer than the newest when its driver was gone."""
        if self._forwarder is not None and self._newest_attempt() == newest_attempt:
            self._forwarder.say_dead()

    def _newest_attempt(self) -> int:
        in_journal = (int(path.stem.rpartition("-")[2]) for path in attempt_paths(self._out_dir))
        return max([*read_fence(self._out_dir).taken, *in_journal], default=0)

    def _has_ended(self) -> bool:
        return self._forwarder is not None and self._forwarder.status not in (None, "RUNNING")

    def _is_over(self, known: Mapping[str, int]) -> bool:
        if self._forwarder is None or not self._has_ended():
            return False
        # A node's samples go on after an end, and are no sign of a new one.
        names = {path.name for path in attempt_paths(self._out_dir)}
        return any(end > known.get(name, 0) for name, end in self._forwarder.positions.items() if name in names)
