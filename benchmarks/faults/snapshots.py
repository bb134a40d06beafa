"""What snapshots in memory cost: the demo's model on two nodes (both on this machine) with a snapshot at each step,
each copied to the other node, beside the same without snapshots.

Both nodes' work is done by this machine's cores, which on a real cluster is each node's own. A rank takes no snapshot
while the one before is still on its way to the other node, so how many steps had one is told too.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.arms import MICRO_BATCH
from benchmarks.faults.dataset import DEMO, demo_dataset
from benchmarks.faults.jobs import HeadraceJob, Place
from benchmarks.faults.kills import Keep
from benchmarks.faults.plan import Plan
from benchmarks.faults.steps import Step, newest
from benchmarks.harness.failed import Failed, recorded
from benchmarks.harness.stats import turns
from tests.end_to_end.headrace import started
from tests.end_to_end.test_prepare import ray_cluster
from trainer.checkpoint.memory_layout import NUMBERS_BYTES, Numbers, read_numbers

logger = logging.getLogger(__name__)

WARM_STEPS = 5
POLL_SECONDS = 0.5
"""Looks at the journal take time from the ranks."""
STOP_SECONDS = 120.0
WITHOUT, WITH = "none", "each step, copied"
INTERVALS = {WITHOUT: 0, WITH: 1}
CLUSTER = "two nodes"
"""What fails where Ray does not start."""
MEMORY = "headrace-snapshot"


def measure_snapshots(plan: Plan, keep: Keep) -> dict[str, Any]:
    """Mean step, the keepers' CPU time and the share of steps with a snapshot of each run, with and without in turn."""
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in INTERVALS}
    failed: Failed = {}
    results = {"runs": runs, "steps": plan.snapshot_steps, "failed": failed}
    names = list(INTERVALS)
    shutil.rmtree(plan.work / "snapshots", ignore_errors=True)  # runs go on from what an earlier one left
    with recorded(failed, CLUSTER), ray_cluster(nodes=2) as cluster:
        for turn, number in enumerate(turns(len(names), plan.repetitions)):
            arm = names[number]
            with recorded(failed, arm):
                runs[arm].append(one_run(plan, f"snapshots-{turn}", INTERVALS[arm], cluster.address))
                logger.info("snapshots %s: %s", arm, runs[arm][-1])
            keep(results)
    return results


def one_run(plan: Plan, name: str, interval: int, address: str) -> dict[str, float]:
    """Mean step seconds, the keepers' CPU seconds per step and the share of steps with a snapshot, over the plan's
    steps. Raises: RuntimeError where snapshots were asked for and no keeper or memory of theirs is there."""
    folder = plan.work / "snapshots"
    place = Place(folder / name, demo_dataset(plan.work), folder, folder / "mlflow.db")
    place.out.mkdir(parents=True)
    words = [word for change in _changes(place, interval) for word in ("--set", change)]
    with started("train", DEMO, *words, "--address", address, log=place.out / "log") as driver:
        job = HeadraceJob(place, driver)
        job.wait_for_step(WARM_STEPS, plan.deadline_seconds, POLL_SECONDS)
        keepers = [pid for pid, _ in job.own("keeper")]
        if interval and not keepers:
            raise RuntimeError(f"{name}: snapshots were asked for, but no process is a keeper of this run")
        before, first, taken = cpu_seconds(keepers), newest(job.steps()), snapshots_taken(job) if interval else None
        job.wait_for_step(first + plan.snapshot_steps, plan.deadline_seconds, POLL_SECONDS)
        used, last, now = cpu_seconds(keepers) - before, newest(job.steps()), snapshots_taken(job) if interval else None
        driver.send_signal(signal.SIGTERM)
        driver.wait(STOP_SECONDS)
    return {
        "step_seconds": mean_step_seconds(job.steps(), first, last),
        "keepers_cpu_seconds": used / (last - first),
        "share_of_steps": snapshot_share(taken, now) if taken and now else 0.0,
    }


def _changes(place: Place, interval: int) -> list[str]:
    """The demo's run file, made this run by `--set`."""
    changes: Mapping[str, Any] = {
        "name": place.out.name,
        "out_dir": place.out,
        "data.dir": place.dataset,
        "train.micro_batch_size": MICRO_BATCH,
        "train.max_tokens": 10**8,
        "eval.interval": 10**6,
        "eval.max_tokens": 1024,
        "eval.samples": "[]",
        "checkpoint.interval": 10**6,
        "checkpoint.snapshot_interval": interval,
        "cluster.workers": 2,
        "monitoring.tracking_uri": f"sqlite:///{place.store}",
    }
    return [f"{name}={value}" for name, value in changes.items()]


def mean_step_seconds(steps: Sequence[Step], first: int, last: int) -> float:
    """From border to border: the journal's own step_seconds end before the snapshot is taken. Pure."""
    ends = {step.step: step.time for step in steps}
    return (ends[last] - ends[first]) / (last - first)


def snapshots_taken(job: HeadraceJob) -> Numbers:
    """What rank 0's memory of snapshots says of them now; it counts its writes."""
    pid = job.rank_pid(0)
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if MEMORY in str(link.readlink()):
            with link.open("rb") as file:
                return read_numbers(file.read(NUMBERS_BYTES))
    raise RuntimeError(f"{job.place.out.name}: rank 0 (process {pid}) has no {MEMORY} open")


def snapshot_share(before: Numbers, after: Numbers) -> float:
    """Snapshots over steps between two looks, each at the newest whole one: writes rise by one with each. Pure."""
    newest_then, newest_now = (max(numbers.slots, key=lambda slot: slot.version) for numbers in (before, after))
    steps = newest_now.step - newest_then.step
    return (newest_now.version - newest_then.version) / steps if steps else 0.0


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of processes so far."""
    ticks = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in pids]
    return sum(int(value) for pair in ticks for value in pair) / os.sysconf("SC_CLK_TCK")
