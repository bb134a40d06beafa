"""An arm's ranks: processes that meet at a port of this machine, with a deadline, all ended whatever happens."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import environment
from benchmarks.harness.launch import group, rank_environments
from benchmarks.harness.processes import end_all_below


def run_ranks(command: Sequence[str], world: int, out: Path, deadline_seconds: float) -> dict[str, Any]:
    """Run the command once per rank; what rank 0 answered, with the wall seconds of it all. The cores are shared out as
    threads.

    Raises: RuntimeError with the end of what the ranks said if one fails or the deadline passes.
    """
    began, name, cores = time.monotonic(), Path(command[1]).name, frozenset(os.sched_getaffinity(0))
    # As DeepSpeed's launcher tells its writers.
    own = {"CROSS_RANK": "0", "CROSS_SIZE": "1", "LOCAL_SIZE": str(world), "GLOO_SOCKET_IFNAME": "lo"}
    own["OMP_NUM_THREADS"] = str(max(1, len(cores) // world))
    with group(name, out / "log", out) as ranks:
        try:
            for variables in rank_environments(world, even_one=True):
                ranks.start(command, cores, {**environment(), **variables, **own})
            ranks.wait(deadline_seconds)
        finally:  # whatever they have started
            end_all_below(os.getpid(), owned=frozenset(rank.pid for rank in ranks.processes))
    if not (out / "answer.json").is_file():
        raise RuntimeError(f"{name}: no answer: {ranks.said()}")
    return {**json.loads((out / "answer.json").read_text()), "process_seconds": time.monotonic() - began}
