"""The fork server: imports the program once, initialises nothing, and forks a rank within milliseconds.

    python -m cluster.zygote --entry trainer.rank --control-fd N --parent-pid P --name NAME

It speaks JSON in packets over the control socket, an AF_UNIX SOCK_SEQPACKET whose other end the supervisor alone
holds: its end of file means that the supervisor is gone, whichever way. Packets out: ready, failed, forked (with a
pidfd of the rank), exited (with the rank's status and the peak of its resident memory). Packets in: fork requests,
with descriptors whose names they list:

    spec       JSON of the rank's spec          log      becomes the rank's standard output and error
    note       takes a line {"type", "message", "traceback"} of the exception that ended the rank
    heartbeat  the page (spec "heartbeat_fd")   snapshot   memory that outlives the rank (spec "snapshot_fd")
    journal, store   spec "journal_fd", "store_fd" (rank 0)
    former0 and so on   spec "former_fds": the snapshots of a gang of another size, in the order of its ranks

The rank runs `entry.main(spec)`, whose return value is its exit status. Beside the descriptors' numbers, spec gets
"heartbeat": a `cluster.heartbeat.Heartbeat` over the page, its liveness thread started.

A rank that an exception ended writes its note and waits to be killed: were it to exit, its peers' connections would
break, and their exceptions could be heard of before its own, which caused them. So `main` should let an exception
pass without taking the process group down.
"""

import argparse
import faulthandler
import importlib
import json
import logging
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from cluster.heartbeat import Heartbeat
from cluster.processes import be_first_of_memory_kills, die_with_parent, kill, set_title
from trainer.quick_imports import collector_at_rest

logger = logging.getLogger(__name__)

PACKET_BYTES = 1 << 17
MAX_THREADS = 2
FAREWELL_SECONDS = 10.0
"""How long a rank with a note waits to be killed."""

_MAX_FDS = 253  # the most that the kernel passes at once
_TRACEBACK_CHARS = 20_000
_SPEC_FDS = ("heartbeat", "snapshot", "journal", "store")


def main(arguments: Sequence[str] | None = None) -> int:
    """Preload, then fork ranks until the supervisor is gone."""
    options = _parse(arguments)
    _reset_signals()
    die_with_parent(options.parent_pid)
    set_title(f"headrace: zygote of {options.name}")
    control = socket.socket(fileno=options.control_fd)
    started = time.monotonic()
    try:
        entry = _preload(options.entry)
    except BaseException as error:
        _send(control, {"event": "failed", **_describe(error)})
        raise
    _send(control, {"event": "ready", "seconds": time.monotonic() - started})
    Zygote(entry, control, options.name).serve()
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cluster.zygote", description="Fork server of a gang's ranks.")
    parser.add_argument("--entry", required=True, help="module with preload() and main(spec)")
    parser.add_argument("--control-fd", type=int, required=True, help="the inherited control socket")
    parser.add_argument("--parent-pid", type=int, required=True, help="process to die with")
    parser.add_argument("--name", required=True, help="the run's name, for process titles")
    return parser.parse_args(arguments)


def _reset_signals() -> None:
    """Undo what the supervisor's host process may have blocked or ignored: both are inherited through exec."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _preload(name: str) -> ModuleType:
    with collector_at_rest():
        entry = importlib.import_module(name)
        entry.preload()
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > MAX_THREADS:
        raise RuntimeError(f"{name}.preload() left {threads} threads, at most {MAX_THREADS} may be: a fork loses them")
    return entry


@dataclass
class Zygote:
    """The loop that forks and reaps. children: pid of each rank by its pidfd."""

    entry: ModuleType
    control: socket.socket
    name: str
    children: dict[int, int] = field(default_factory=dict)

    def serve(self) -> None:
        """Fork at request and report exits until the control socket ends; then kill what is left."""
        poller = select.poll()
        poller.register(self.control, select.POLLIN)
        while True:
            for fd, _ in poller.poll():
                if fd in self.children:
                    poller.unregister(fd)
                    self._reap(fd)
                    continue
                packet, fds, _, _ = socket.recv_fds(self.control, PACKET_BYTES, _MAX_FDS)
                if not packet:
                    for pidfd in self.children:
                        kill(pidfd)
                    return
                poller.register(self._fork(json.loads(packet), fds), select.POLLIN)

    def _fork(self, request: dict[str, Any], fds: list[int]) -> int:
        zygote_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_rank(zygote_pid, request["title"], dict(zip(request["fds"], fds, strict=True)))
        pidfd = os.pidfd_open(pid)
        self.children[pidfd] = pid
        for fd in fds:
            os.close(fd)
        packet = json.dumps({"event": "forked", "pid": pid}).encode()
        socket.send_fds(self.control, [packet], [pidfd])
        return pidfd

    def _reap(self, pidfd: int) -> None:
        pid, status, usage = os.wait4(self.children.pop(pidfd), 0)
        os.close(pidfd)
        end = {"pid": pid, "status": os.waitstatus_to_exitcode(status), "peak_bytes": usage.ru_maxrss * 1024}
        _send(self.control, {"event": "exited", **end})

    def _become_rank(self, zygote_pid: int, title: str, fds: dict[str, int]) -> NoReturn:
        code = 1
        try:
            die_with_parent(zygote_pid)
            self.control.close()
            for pidfd in self.children:
                os.close(pidfd)
            set_title(title)
            be_first_of_memory_kills()
            code = run_rank(self.entry, fds)
        except BaseException:
            logger.exception("the fork could not become a rank")
        finally:
            # No way back into the zygote's loop, and no exit handlers that belong to it.
            os._exit(code)


def run_rank(entry: ModuleType, fds: dict[str, int]) -> int:
    """Run `entry.main` in the forked process; returns its exit status, 1 after an exception, which is noted."""
    os.dup2(fds["log"], 1)
    os.dup2(fds["log"], 2)
    faulthandler.enable()
    try:
        with os.fdopen(fds["spec"], "rb") as file:
            spec: dict[str, Any] = json.load(file)
        spec |= {f"{name}_fd": fds[name] for name in _SPEC_FDS if name in fds}
        spec["former_fds"] = [fds[f"former{rank}"] for rank in range(len(fds)) if f"former{rank}" in fds]
        spec["heartbeat"] = Heartbeat(fds["heartbeat"])
        spec["heartbeat"].start_liveness()
        return int(entry.main(spec))
    except BaseException as error:
        logger.exception("the rank failed")
        with os.fdopen(fds["note"], "wb") as file:
            file.write(json.dumps(_describe(error)).encode() + b"\n")
        time.sleep(FAREWELL_SECONDS)
        return 1


def _describe(error: BaseException) -> dict[str, str]:
    cls = type(error)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    text = "".join(traceback.format_exception(error))
    return {"type": name, "message": str(error)[:_TRACEBACK_CHARS], "traceback": text[-_TRACEBACK_CHARS:]}


def _send(control: socket.socket, packet: dict[str, Any]) -> None:
    control.send(json.dumps(packet).encode())


if __name__ == "__main__":
    raise SystemExit(main())
