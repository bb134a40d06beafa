"""A node's load while a run trains on it: processor, memory, disk, network, GPUs, as MLflow's own monitor names them.

One thread of one process a node samples, mostly the supervisor of the node's first rank, so that no step waits for it.
The samples go to `OUT_DIR/journal/node-NODE.jsonl`, and from there to MLflow as `system/NODE/...` like all else.
Linux's /proc is read, and nvidia-smi is asked where there is one. Standard library only.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from monitoring.journal import FileJournal, node_path

logger = logging.getLogger(__name__)

Values = dict[str, float]

_MEGABYTE = 1e6
_GPU_DEADLINE_SECONDS = 10.0
_GPU_QUERY = "index,utilization.gpu,memory.used,memory.total,power.draw"
_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Counters:
    """What the kernel counts from its start on: ticks of all processors, bytes over all networks but the loopback."""

    busy_ticks: int
    ticks: int
    received_bytes: int
    sent_bytes: int


def parse_counters(stat: str, net_dev: str) -> Counters:
    """From the texts of /proc/stat and /proc/net/dev."""
    ticks = [int(word) for word in stat.splitlines()[0].split()[1:9]]  # guests' time is in user's
    idle = ticks[3] + ticks[4]
    received = sent = 0
    for line in net_dev.splitlines()[2:]:
        name, _, rest = line.partition(":")
        if name.strip() != "lo":
            words = rest.split()
            received, sent = received + int(words[0]), sent + int(words[8])
    return Counters(sum(ticks) - idle, sum(ticks), received, sent)


def load_values(first: Counters, before: Counters, now: Counters) -> Values:
    """Processor time since the sample before, in percent of all processors; bytes since the first sample."""
    ticks = now.ticks - before.ticks
    return {
        "cpu_utilization_percentage": 100.0 * (now.busy_ticks - before.busy_ticks) / ticks if ticks else 0.0,
        "network_receive_megabytes": (now.received_bytes - first.received_bytes) / _MEGABYTE,
        "network_transmit_megabytes": (now.sent_bytes - first.sent_bytes) / _MEGABYTE,
    }


def parse_memory(meminfo: str) -> Values:
    """Memory that is not available to a new program, from the text of /proc/meminfo."""
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (s.partition(":") for s in meminfo.splitlines())}
    used = sizes["MemTotal"] - sizes["MemAvailable"]
    return {
        "system_memory_usage_megabytes": used / _MEGABYTE,
        "system_memory_usage_percentage": 100.0 * used / sizes["MemTotal"],
    }


def disk_values(folder: Path) -> Values:
    """Of the file system that holds a folder."""
    usage = shutil.disk_usage(folder)
    return {
        "disk_usage_megabytes": usage.used / _MEGABYTE,
        "disk_usage_percentage": 100.0 * usage.used / usage.total,
        "disk_available_megabytes": usage.free / _MEGABYTE,
    }


def parse_gpus(table: str) -> Values:
    """From nvidia-smi's answer to the query above, a line a GPU; what a GPU does not tell is left out."""
    values: Values = {}
    for line in filter(None, table.splitlines()):
        index, *words = (word.strip() for word in line.split(","))
        utilization, used, total, watts = (_number(word) for word in words)
        found = {
            "utilization_percentage": utilization,
            "memory_usage_megabytes": None if used is None else used * _MEBIBYTE / _MEGABYTE,
            "memory_usage_percentage": 100.0 * used / total if used is not None and total else None,
            "power_usage_watts": watts,
        }
        values |= {f"gpu_{index}_{name}": value for name, value in found.items() if value is not None}
    return values


def _number(word: str) -> float | None:
    """None for [N/A] and its like."""
    try:
        return float(word)
    except ValueError:
        return None


def _ask_gpus() -> Values:
    """Nothing where there is no nvidia-smi, or where it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_DEADLINE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.debug("the GPUs cannot be asked: %s", error)
        return {}
    return parse_gpus(done.stdout) if done.returncode == 0 else {}


def _read_counters() -> Counters:
    return parse_counters(Path("/proc/stat").read_text(), Path("/proc/net/dev").read_text())


class NodeMonitor:
    """Samples of this machine. The first one's processor time is since the object was made."""

    def __init__(self, folder: Path, ask_gpus: Callable[[], Values] = _ask_gpus) -> None:
        """folder: whose file system is looked at. OSError where there is no /proc."""
        self._folder = folder
        self._ask_gpus = ask_gpus
        self._first = self._before = _read_counters()

    def sample(self) -> Values:
        """The values now."""
        now = _read_counters()
        load = load_values(self._first, self._before, now)
        self._before = now
        memory = parse_memory(Path("/proc/meminfo").read_text())
        return {**load, **memory, **disk_values(self._folder), **self._ask_gpus()}


@contextmanager
def node_monitoring(out_dir: Path, node: str, interval_seconds: float | None) -> Iterator[None]:
    """Samples this node for the length of the block, if nobody else does; None: not at all."""
    if interval_seconds is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_monitor, args=(out_dir, node, interval_seconds, ended), daemon=True)
    thread.name = "node-monitor"
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # A folder that stalls keeps the thread, not the process.
        thread.join(timeout=1.0)


def _monitor(out_dir: Path, node: str, interval_seconds: float, ended: threading.Event) -> None:
    path = node_path(out_dir, node)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            while not _is_locked(lock):  # another raylet of this machine, or a gang that is about to end, samples it
                if ended.wait(interval_seconds):
                    return
            _write_samples(NodeMonitor(out_dir), FileJournal(path), node, interval_seconds, ended)
    except OSError as error:
        logger.warning("node %s is not sampled for MLflow: %s", node, error)


def _is_locked(file: IO[str]) -> bool:
    """Whether this process has the file's lock now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_samples(
    monitor: NodeMonitor, journal: FileJournal, node: str, interval_seconds: float, ended: threading.Event
) -> None:
    while not ended.wait(interval_seconds):
        journal.write(sample_record(node, monitor.sample(), time.time()))
    journal.close()


def sample_record(node: str, values: Mapping[str, float], now: float) -> dict[str, object]:
    """A line of a node's journal; it belongs to no attempt, since a node outlives them."""
    return {"event": "system", "node": node, "time": now, "values": dict(values)}
