"""The supervisor's side of the zygote: start it, ask for ranks, hear of their ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import out_of_memory
from cluster.spec import GangSpec
from cluster.zygote import PACKET_BYTES
from trainer.allocator import keeping_memory

FORK_SECONDS = 10.0
"""A fork takes milliseconds; a zygote that does not answer for so long is not coming back."""

END_SECONDS = 2.0
"""How long a zygote that has closed its socket may take to end."""


class ZygoteGoneError(Exception):
    """The zygote died or does not answer; the text says which."""


@dataclass(frozen=True)
class Child:
    """A forked rank: its process id, and a pidfd that the holder closes."""

    pid: int
    pidfd: int


class ZygoteClient:
    """Starts `python -m cluster.zygote`. Make it in the thread that stays for the gang's whole life: it dies with it.

    started: monotonic seconds; ready: whether it has said so (the caller sets it from the packet).
    """

    def __init__(self, spec: GangSpec) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-P", "-m", "cluster.zygote", "--entry", spec.entry, "--name", spec.name]
            command += ["--control-fd", str(theirs.fileno()), "--parent-pid", str(os.getpid())]
            # A session of its own: an interrupt from the terminal is the supervisor's, who ends the rank in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(spec),
                start_new_session=True,
            )
        self.started = time.monotonic()
        self.ready = False
        self._kills_before = out_of_memory.read_kills()

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        return self._control.fileno()

    def fork(self, title: str, fds: dict[str, int]) -> Child:
        """Fork a rank that inherits `fds` (see cluster.zygote); ZygoteGoneError if there is no answer."""
        packet = json.dumps({"title": title, "fds": list(fds)}).encode()
        self._control.settimeout(FORK_SECONDS)
        try:
            socket.send_fds(self._control, [packet], list(fds.values()))
            answer, received, _, _ = socket.recv_fds(self._control, PACKET_BYTES, 1)
        except OSError as error:
            raise ZygoteGoneError(f"the zygote does not fork: {error}") from error
        if not answer:
            raise ZygoteGoneError(self._how_it_ended())
        return Child(json.loads(answer)["pid"], received[0])

    def receive(self) -> dict[str, Any]:
        """The next packet, waiting for it; ZygoteGoneError at the end of the stream."""
        self._control.settimeout(None)
        try:
            packet = self._control.recv(PACKET_BYTES)
        except OSError as error:
            raise ZygoteGoneError(f"the zygote's socket is broken: {error}") from error
        if not packet:
            raise ZygoteGoneError(self._how_it_ended())
        values: dict[str, Any] = json.loads(packet)
        return values

    def close(self) -> None:
        """Kill it (its ranks die with it), and reap it."""
        self._process.kill()
        self._process.wait()
        self._control.close()

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status == -signal.SIGKILL and out_of_memory.kernel_killed(self._kills_before, out_of_memory.read_kills()):
            return f"the zygote was killed by the kernel for want of memory; {out_of_memory.ADVICE}"
        return f"the zygote ended with status {status}"


def _environment(spec: GangSpec) -> dict[str, str]:
    """Ours and the spec's, with the search path of this process, so that the zygote imports what we would.

    This package's own folder comes first: a package `cluster` in the working directory does not shadow it.
    """
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *(path for path in sys.path if path and path != root)]
    allocator = keeping_memory(os.environ) if spec.keeps_memory else {}
    return {**os.environ, **allocator, **spec.env, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
