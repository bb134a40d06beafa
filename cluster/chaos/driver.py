"""The command that trains, as a process that can be killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.chaos.cluster import ROOT, clean_environment

FAULTS_VARIABLE = "HEADRACE_FAULTS"
_TAIL_BYTES = 4000


class Driver:
    """`headrace train` with some words; the same command each time it is started."""

    def __init__(self, words: Sequence[str], log: Path, faults: Sequence[dict[str, Any]] = ()) -> None:
        """words: what follows `headrace train`; faults: what the ranks are to do to themselves."""
        self._words = list(words)
        self._environment = clean_environment()
        if faults:
            self._environment[FAULTS_VARIABLE] = json.dumps(list(faults))
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, address: str) -> None:
        """Start the command on the cluster at that address, in a group of its own."""
        command = [sys.executable, "-m", "cluster.cli", "train", *self._words, "--address", address]
        with self._log.open("ab") as file:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Number of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll() if self._process is not None else None

    def signal(self, number: signal.Signals) -> None:
        """Signal the command's process alone."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill it with all of its group, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def log_tail(self) -> str:
        """The end of what it printed, over all its starts."""
        return self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace") if self._log.exists() else ""


def train_words(file: Path, overrides: Sequence[str]) -> list[str]:
    """The words for a run file, with fields of it overridden."""
    return [str(file.resolve()), *(word for override in overrides for word in ("--set", override))]
