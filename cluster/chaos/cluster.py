"""A cluster of several Ray nodes on this machine, for the length of a block."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from cluster.errors import ClusterError

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
ANSWER_SECONDS = 120.0
CLOSE_SECONDS = 30.0


def clean_environment() -> dict[str, str]:
    """This process's environment without what an outer Ray, a launcher or an earlier plan may have left in it."""
    left = ("RAY_", "RANK", "WORLD_SIZE", "HEADRACE_FAULTS")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(left)}
    path = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "RAY_USAGE_STATS_ENABLED": "0"}


class ChaosCluster:
    """Nodes that can be added and lost. The process that holds them ends with this one, whatever ends it."""

    def __init__(self, nodes: int, cpus_per_node: int, log: Path) -> None:
        """Start a head and so many nodes. ClusterError if Ray does not start; its words are in `log`."""
        self._log = log
        self._file = log.open("ab")
        command = [sys.executable, "-m", "cluster.chaos.cluster_process", "--cpus-per-node", str(cpus_per_node)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._file
        )
        self._orders = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cluster")
        self.address = ""
        self.raylets: dict[int, int] = {}
        """Process number of each node's raylet, by the node's number."""
        try:
            for _ in range(nodes):
                self.order("add").result(ANSWER_SECONDS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ChaosCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process from which all of the cluster's processes descend."""
        return self._process.pid

    def order(self, what: str, **fields: Any) -> Future[None]:
        """Ask for something to be done, after all that was asked for before; done when the future is."""
        return self._orders.submit(self._ask, {"do": what, **fields})

    def _ask(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise ClusterError(f"the Ray cluster for this command has ended; the reason is in {self._log}")
        described = json.loads(answer)
        self.address = described["address"]
        self.raylets = {int(number): pid for number, pid in described["raylets"].items()}

    def close(self) -> None:
        """End every process of the cluster."""
        assert self._process.stdin is not None
        self._orders.shutdown(cancel_futures=True)
        self._process.stdin.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("the cluster's processes did not end in order within %.0f s", CLOSE_SECONDS)
            self._process.kill()
            self._process.wait()
        self._file.close()
