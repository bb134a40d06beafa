"""The processes of an arm: started on their cores, waited for with a deadline, and none of them left behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.harness.environment import ROOT
from benchmarks.harness.processes import pinned

END_SECONDS = 90.0
_POLL_SECONDS = 0.2


class Group:
    """Processes that are one arm, in a folder. `log` has what they said."""

    def __init__(self, name: str, log: Path, folder: Path) -> None:
        self._name, self._log, self._folder = name, log, folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str], cores: frozenset[int], environment: Mapping[str, str]) -> None:
        """One more process, on these cores with all that it starts."""
        with pinned(cores), self._log.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)

    def wait(self, deadline_seconds: float) -> None:
        """Until all have ended well. Raises: RuntimeError as soon as one fails, or at the deadline."""
        end = time.monotonic() + deadline_seconds
        waiting = {os.pidfd_open(process.pid): process for process in self.processes}
        try:
            while waiting:
                ended = self._ended(list(waiting), end)
                for fd in ended:
                    process = waiting.pop(fd)
                    os.close(fd)
                    if process.wait() != 0:
                        raise RuntimeError(f"{self._name}: exit status {process.returncode}: {self.said()}")
        finally:
            for fd in waiting:
                os.close(fd)

    def _ended(self, fds: list[int], end: float) -> list[int]:
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(max(0.0, end - time.monotonic()) * 1000)]
        if not ready:
            raise RuntimeError(f"{self._name}: not done at its deadline: {self.said()}")
        return ready

    def has_ended(self) -> bool:
        """Whether one of them is no longer there."""
        return any(process.poll() is not None for process in self.processes)

    def said(self) -> str:
        """The end of the log."""
        return self._log.read_text(errors="replace")[-2000:]

    def close(self) -> None:
        """End what still runs: asked first, then killed with its process group."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        end = time.monotonic() + END_SECONDS
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def group(name: str, log: Path, folder: Path = ROOT) -> Iterator[Group]:
    """A group that ends with the block."""
    made = Group(name, log, folder)
    try:
        yield made
    finally:
        made.close()


def rank_environments(ranks: int, even_one: bool = False) -> list[dict[str, str]]:
    """The variables that torchrun sets for each rank of one machine; none for a single one, which needs no meeting,
    unless it is asked for."""
    if ranks == 1 and not even_one:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    common = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "bench", "TORCHELASTIC_RESTART_COUNT": "0"}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def pin_titled(
    titles: Sequence[str], cores: Sequence[int], deadline_seconds: float, is_over: Callable[[], bool] = lambda: False
) -> None:
    """Put the processes of these titles, once they are there, on a core each, with all their threads.

    Raises: RuntimeError if they do not come, unless it `is_over` before.
    """
    end = time.monotonic() + deadline_seconds
    waiting = dict(zip(titles, cores, strict=True))
    while waiting and not is_over():
        for title in [title for title in waiting if (pids := _titled(title))]:
            for pid in pids:
                _pin(pid, waiting[title])
            del waiting[title]
        if waiting and time.monotonic() > end:
            raise RuntimeError(f"no process is titled {sorted(waiting)} after {deadline_seconds:.0f} s")
        if waiting:
            time.sleep(_POLL_SECONDS)


def _titled(title: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if (path / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace") == title:
                found.append(int(path.name))
    return found


def _pin(pid: int, core: int) -> None:
    with suppress(OSError):  # a thread has ended meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})
