"""`python -m monitoring.sender --out-dir DIR`: follows the journal of a run and sends it to MLflow.

A process of its own, so that no step of a training waits for MLflow. It ends when a run's end has been sent, or when
its standard input ends (its parent has died, or asks it to): then it sends what is there, for ten seconds at most, and
exits with 1 if something is left. Where MLflow cannot be used it says so once and tries again, ever more rarely.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from monitoring.errors import MonitoringError
from monitoring.journal import attempt_paths, is_step, records_between, sender_lock
from monitoring.settings import MonitoringSettings, default_tracking_uri

logger = logging.getLogger(__name__)

LEFT_STATUS = 1

_NICENESS = 5  # training goes first where both want the same core
_PATIENCE_SECONDS, _LOOK_SECONDS = 30.0, 0.5
_HARD_STOP_SECONDS = 15.0  # after the parent has gone, whatever a call to MLflow is waiting for


def start_sender(out_dir: Path, settings: MonitoringSettings) -> subprocess.Popen[bytes]:
    """Starts the sender of a run as a child that ends with this process at the latest; it says what is wrong on stderr.

    Start it before the training, so that it sees the end of this life of the run, not of an earlier one.
    """
    options = ["--out-dir", str(out_dir.absolute()), "--experiment", settings.experiment]
    if settings.tracking_uri is not None:
        options += ["--tracking-uri", settings.tracking_uri]
    # -P and the path: a folder named monitoring in the working directory must not be taken for this package.
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", "monitoring.sender", *options]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})


def finish_sender(process: subprocess.Popen[bytes], timeout_seconds: float = 20.0) -> int:
    """Asks a sender that `start_sender` started to send what is left, and waits for its end.

    Returns its exit status: 0 if all was sent, 1 if ten seconds were not enough; killed (negative) after
    `timeout_seconds`.
    """
    if process.stdin is not None:
        process.stdin.close()
    try:
        return process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 0, 1 if something is left unsent, 2 where the input is wrong (on standard error)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="headrace sender: %(message)s")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    known = {path.name: path.stat().st_size for path in attempt_paths(options.out_dir)}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent; its end ends this process, with all sent
    try:
        settings = MonitoringSettings(tracking_uri=options.tracking_uri, experiment=options.experiment)
        return 0 if _send(options.out_dir, settings, known) else LEFT_STATUS
    except (MonitoringError, ValidationError) as error:
        logger.error("%s", error)
        return 2


def _send(out_dir: Path, settings: MonitoringSettings, known: Mapping[str, int]) -> bool:
    os.nice(_NICENESS)
    _wait_for_work(out_dir, known)
    # Imported here: MLflow takes two seconds of a core that the run's start wants as well.
    from monitoring.send_loop import SendLoop

    uri = settings.tracking_uri or default_tracking_uri(out_dir)
    while True:
        with sender_lock(out_dir) as held:
            if held:
                return SendLoop(out_dir, uri, settings.experiment, wait_for_parent).run(known)
        if wait_for_parent(0.5):  # another process is at its last points, or will end before this one is needed
            return True


def _wait_for_work(out_dir: Path, known: Mapping[str, int]) -> None:
    """Until the journal has gained a step or an end, the parent is gone, or a while has passed."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and not wait_for_parent(_LOOK_SECONDS):
        now = {path.name: path.stat().st_size for path in attempt_paths(out_dir)}
        if any(is_step(record) or record.get("event") == "end" for record in records_between(out_dir, known, now)):
            return


def wait_for_parent(seconds: float) -> bool:
    """Waits; True as soon as standard input has ended, and from then on the process has some seconds to live."""
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        readable, _, _ = select.select([sys.stdin.fileno()], [], [], max(0.0, left))
        if readable and not os.read(sys.stdin.fileno(), 4096):
            signal.setitimer(signal.ITIMER_REAL, _HARD_STOP_SECONDS)
            return True
        if left <= 0:
            return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m monitoring.sender", description=__doc__)
    parser.add_argument("--out-dir", type=Path, required=True, help="the folder of the run")
    parser.add_argument("--tracking-uri", help="MLflow's store (default: mlflow.db beside the folder of the run)")
    parser.add_argument("--experiment", default="headrace", help="MLflow's experiment (default: headrace)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
