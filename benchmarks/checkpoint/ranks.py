"""An arm's ranks: processes that meet at a port of this machine, with a deadline, all ended whatever happens."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data.arms import ROOT, environment
from benchmarks.faults.processes import CPU_ONLY, POLL_SECONDS, end_all_below


def run_ranks(command: Sequence[str], world: int, out: Path, deadline_seconds: float) -> dict[str, Any]:
    """Run the command once per rank; what rank 0 answered, with the wall seconds of it all.

    Raises: RuntimeError with the end of what the ranks said if one fails or the deadline passes.
    """
    began, port = time.monotonic(), _free_port()
    log = out / "log"
    with log.open("wb") as file:
        ranks = [
            subprocess.Popen(
                command,
                cwd=out,
                env=rank_environment(rank, world, port),
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
            )
            for rank in range(world)
        ]
    try:
        _wait(ranks, began + deadline_seconds)
    finally:
        end_all_below(os.getpid(), owned=frozenset(rank.pid for rank in ranks))
    statuses = [rank.wait() for rank in ranks]
    if any(statuses) or not (out / "answer.json").is_file():
        said = log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{Path(command[1]).name}: exit statuses {statuses}:\n{said}")
    return {**json.loads((out / "answer.json").read_text()), "process_seconds": time.monotonic() - began}


def _wait(ranks: Sequence[subprocess.Popen[bytes]], deadline: float) -> None:
    """Until all have ended, one has failed, or the deadline has passed."""
    while any(rank.poll() is None for rank in ranks) and not any(rank.returncode for rank in ranks):
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_SECONDS)


def rank_environment(rank: int, world: int, port: int) -> Mapping[str, str]:
    """What a rank finds in its environment: the cores are shared out as threads."""
    threads = max(1, len(os.sched_getaffinity(0)) // world)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    place |= {
        "CROSS_RANK": "0",
        "CROSS_SIZE": "1",
        "LOCAL_SIZE": str(world),
    }  # as DeepSpeed's launcher tells its writers
    own = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT), **CPU_ONLY}
    return {**environment(), **meeting, **place, **own}


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
