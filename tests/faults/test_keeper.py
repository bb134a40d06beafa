"""Snapshots in memory outlive a supervisor, and a node with all that ran on it, but not the driver."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cluster.chaos.process_table import read_parents
from monitoring.journal import last_values
from tests.end_to_end.headrace import (
    events,
    headrace,
    newest_step,
    pids_titled,
    records,
    run_file,
    started,
    steps,
    wait_until,
)
from tests.end_to_end.test_prepare import descends, ray_cluster

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(280)]

INTERVAL = 10
"""Steps between snapshots; there are no checkpoints before the end."""

CHANGES: dict[str, Any] = {
    "train__max_steps": 160,
    "eval__interval": 1000,
    "checkpoint": {"interval": 1000, "snapshot_interval": INTERVAL},
}


def values(out_dir: Path) -> list[tuple[int, str, str]]:
    """What each step computed, to the last bit, and from what."""
    kept = last_values(records(out_dir)).values()
    return [(record["step"], record["loss_hex"], record["sequence_hash"]) for record in kept]


def family(pid: int, parent: dict[int, int]) -> list[int]:
    """A process and all below it."""
    return [other for other in parent if descends(other, pid, parent)]


def kill_node_of_a_rank(cluster: Any, name: str) -> None:
    """SIGKILL every process of a node that a rank is on, and is not the head: nothing of its memory is left."""
    parent = read_parents()
    for node in cluster.worker_nodes:
        raylet = node.all_processes["raylet"][0].process.pid
        processes = family(raylet, parent)
        if any(pid in processes for rank in (0, 1) for pid in pids_titled(f"headrace: supervisor {rank} of {name}")):
            cluster.remove_node(node, allow_graceful=False)
            for pid in processes[::-1]:
                if Path(f"/proc/{pid}").exists():
                    os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError("no node beside the head has a rank")


def test_snapshots_after_a_supervisor_and_then_a_node_were_killed_go_on_exactly_from_memory(tmp_path: Path) -> None:
    calm = headrace("train", run_file(tmp_path, "unmoved", **CHANGES))
    assert calm.returncode == 0, calm.stderr
    file, out_dir, log = run_file(tmp_path, "moved", **CHANGES), tmp_path / "runs/moved", tmp_path / "moved.log"
    reached = []

    def run_to(step: int) -> None:
        """In the middle between two snapshots, when the copy of the last one has long arrived."""
        wait_until(lambda: newest_step(out_dir) >= step + INTERVAL // 2, f"step {step}", 60)

    with ray_cluster(nodes=3) as cluster, started("train", file, "--address", cluster.address, log=log) as driver:
        run_to(40)
        [supervisor] = wait_until(lambda: pids_titled("headrace: supervisor 1 of moved"), "the supervisor's title")
        os.kill(supervisor, signal.SIGKILL)
        wait_until(lambda: len(events(out_dir, "start")) == 2, "a new gang on the same nodes", 60)
        reached.append(max(record["step"] for record in steps(out_dir) if record["attempt"] == 1))
        run_to(reached[0] // INTERVAL * INTERVAL + 2 * INTERVAL)
        assert len(pids_titled("headrace: keeper of moved")) == 3
        kill_node_of_a_rank(cluster, "moved")
        wait_until(lambda: len(events(out_dir, "start")) == 3, "a new gang on the spare node", 100)
        reached.append(max(record["step"] for record in steps(out_dir) if record["attempt"] == 2))
        run_to(reached[1] // INTERVAL * INTERVAL + INTERVAL)
        assert driver.poll() is None, log.read_text()
        driver.kill()
        wait_until(lambda: not pids_titled("headrace: keeper of moved"), "the keepers' end with their driver", 5)

    starts = events(out_dir, "start")
    assert [start["restored_from"] for start in starts] == ["nothing", "memory", "memory"]
    for step, start in zip(reached, starts[1:], strict=True):
        assert 0 <= step - start["resumed_step"] <= INTERVAL
    seen = values(out_dir)
    assert len(seen) > reached[1]
    assert seen == values(tmp_path / "runs/unmoved")[: len(seen)]
