"""Processes that tests start, and waiting for what they do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def process(*command: str, stderr: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `python COMMAND...` in the project's folder, its standard input a pipe; killed at the end at the latest."""
    with Path(stderr or os.devnull).open("ab") as errors:
        started = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdin=subprocess.PIPE, stderr=errors)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        if started.stdin is not None:
            started.stdin.close()
        started.wait()


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Returns as soon as `holds()`; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"did not hold within {seconds} s"
        time.sleep(0.02)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
