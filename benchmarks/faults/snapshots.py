"""What snapshots in memory cost: the demo's model on two nodes (both on this machine) with a snapshot at each step,
each copied to the other node, beside the same without snapshots.

Both nodes' work is done by this machine's cores, which on a real cluster is each node's own.
"""

from __future__ import annotations

import logging
import os
import signal
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.data.stats import turns
from benchmarks.faults.dataset import DEMO, demo_dataset
from benchmarks.faults.plan import Plan
from tests.end_to_end.headrace import newest_step, pids_titled, started, steps, wait_until
from tests.end_to_end.test_prepare import ray_cluster

logger = logging.getLogger(__name__)

WARM_STEPS = 5
WITHOUT, WITH = "none", "each step, copied"
INTERVALS = {WITHOUT: 0, WITH: 1}


def measure_snapshots(plan: Plan) -> dict[str, Any]:
    """Median step and the keepers' CPU time of each run, by turns with and without."""
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in INTERVALS}
    names = list(INTERVALS)
    folder = plan.work / "snapshots"
    with ray_cluster(nodes=2) as cluster:
        for number in turns(len(names), plan.repetitions):
            arm = names[number]
            name = f"snapshots-{number}-{len(found[arm])}"
            changes = [f"out_dir={folder / name}", f"data.dir={demo_dataset(plan.work)}", f"name={name}"]
            changes += [
                f"checkpoint.snapshot_interval={INTERVALS[arm]}",
                f"monitoring.tracking_uri=sqlite:///{folder}/m.db",
            ]
            found[arm].append(one_run(folder / name, changes, cluster.address, plan.snapshot_steps))
            logger.info("snapshots %s: a step %.3f s", arm, found[arm][-1]["step_seconds"])
    return {"runs": found, "steps": plan.snapshot_steps}


def one_run(out_dir: Path, changes: list[str], address: str, length: int) -> dict[str, float]:
    """Median step seconds, and the keepers' CPU seconds per step, over `length` steps."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    changes = [*changes, "checkpoint.interval=100000", "eval.interval=100000", "cluster.workers=2"]
    words: list[Any] = ["train", DEMO, *(word for change in changes for word in ("--set", change))]
    with started(*words, "--address", address, log=out_dir.with_suffix(".log")) as driver:
        wait_until(lambda: newest_step(out_dir) >= WARM_STEPS, "the first steps", 300)
        keepers = pids_titled(f"headrace: keeper of {out_dir.name}")
        before, first = cpu_seconds(keepers), newest_step(out_dir)
        wait_until(lambda: newest_step(out_dir) >= first + length, "the last step", 300)
        used, last = cpu_seconds(keepers) - before, newest_step(out_dir)
        driver.send_signal(signal.SIGTERM)
        driver.wait(120)
    # From border to border: the journal's own step_seconds end before the snapshot is taken.
    ends = [record["time"] for record in steps(out_dir) if first <= record["step"] <= last]
    seconds = statistics.median(end - begin for begin, end in pairwise(ends))
    return {"step_seconds": seconds, "keepers_cpu_seconds": used / (last - first)}


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes so far."""
    ticks = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in pids]
    return sum(int(value) for pair in ticks for value in pair) / os.sysconf("SC_CLK_TCK")
