"""What ends a gang: lost supervisors, nodes, drivers and heads, nodes with notice, room that comes and goes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.headrace import (
    events,
    headrace,
    newest_step,
    pids_titled,
    run_file,
    started,
    steps,
    wait_until,
)
from tests.faults.ray_nodes import believed, drain, is_alive, kill_head, kill_raylet, node_of, places, ray_nodes

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(900)]

STEPS = 300
GANG_SECONDS = 300.0  # for a gang to be placed and to start, on a machine that does much else


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module's runs and their shared dataset lie."""
    return tmp_path_factory.mktemp("gangs")


@pytest.fixture(scope="module")
def calm(folder: Path) -> Path:
    """The folder of an undisturbed run on two workers."""
    file = gang_file(folder, "calm")
    done = headrace("train", file)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / file.stem


def gang_file(folder: Path, name: str, **changes: Any) -> Path:
    """Slow steps of eight small batches a rank; a name that no other run on the machine has."""
    length = {"max_steps": STEPS, "global_batch_size": 16, "micro_batch_size": 1, "lr": 3e-3}
    return run_file(folder, f"{name}-{os.getpid()}", train=length, eval__interval=1000, **changes)


def wait_for_steps(out_dir: Path, count: int) -> int:
    """Wait for so many new steps; the newest one."""
    target = newest_step(out_dir) + count
    wait_until(lambda: newest_step(out_dir) >= target, f"step {target}", GANG_SECONDS)
    return newest_step(out_dir)


def wait_for_gang(out_dir: Path, restarts: int) -> None:
    """Wait until a gang that is not the first has trained a step."""
    wait_until(lambda: len(events(out_dir, "gang_restart")) >= restarts, f"gang restart {restarts}", GANG_SECONDS)
    newest = max(event["attempt"] for event in events(out_dir, "gang_restart"))
    wait_until(
        lambda: any(e["attempt"] > newest for e in events(out_dir, "start")), "the new gang's start", GANG_SECONDS
    )
    wait_for_steps(out_dir, 2)


def processes_of(name: str) -> list[int]:
    """Supervisors, zygotes, ranks and keepers of snapshots of the run."""
    kinds = [pids_titled(f"headrace: {kind}") for kind in ("supervisor", "zygote", "rank", "keeper")]
    return [pid for pids in kinds for pid in pids if title(pid).endswith(f" of {name}")]


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")
    except OSError:  # it has ended meanwhile
        return ""


def test_gang_after_lost_supervisor_node_driver_and_head_is_exactly_the_undisturbed_one(
    folder: Path, calm: Path
) -> None:
    """Two workers and a spare node: every loss is followed by a gang of the same size, on another cluster at last."""
    file = gang_file(folder, "rough")
    name, out_dir, log = file.stem, folder / "runs" / file.stem, folder / "rough.log"
    with ray_nodes(workers=3) as cluster:
        command = ("train", file, "--address", cluster.address)
        with started(*command, log=log) as driver:
            wait_for_steps(out_dir, 8)
            os.kill(places(out_dir)[0]["pid"], signal.SIGKILL)
            second = headrace("train", file)
            assert second.returncode == 2
            assert f"process {driver.pid} on " in second.stderr
            assert " since 20" in second.stderr
            wait_for_gang(out_dir, 1)

            [rank] = wait_until(lambda: pids_titled(f"headrace: rank 1/2 of {name}"), "rank 1")
            kill_raylet(node_of(cluster, out_dir, 1))
            wait_until(lambda: not is_alive(rank), "the rank's end", deadline_seconds=3)
            wait_for_gang(out_dir, 2)

            driver.send_signal(signal.SIGKILL)
            wait_until(lambda: not processes_of(name), "the workers' end", deadline_seconds=5)
        with started(*command, log=log) as driver:
            wait_for_steps(out_dir, 2)
            kill_head(cluster)
            wait_until(lambda: not processes_of(name), "the workers' end", deadline_seconds=5)
            assert driver.wait(timeout=60) == 1, log.read_text()
            assert "the head of the Ray cluster" in log.read_text()
    done = headrace("train", file)
    assert done.returncode == 0, done.stderr
    restarts = [(event["kind"], event["world_size"]) for event in events(out_dir, "gang_restart")]
    assert restarts == [("loss", 2), ("loss", 2)]
    for field in ("sequence_hash", "loss_hex"):
        assert believed(out_dir, field) == believed(calm, field)


def test_elastic_gang_shrinks_on_loss_grows_with_room_and_leaves_a_node_on_notice(folder: Path, calm: Path) -> None:
    file = gang_file(folder, "elastic", cluster={"workers": [1, 2], "max_failures": 1})
    out_dir, log = folder / "runs" / file.stem, folder / "elastic.log"
    with ray_nodes(workers=2) as cluster, started("train", file, "--address", cluster.address, log=log) as driver:
        wait_for_steps(out_dir, 8)
        kill_raylet(node_of(cluster, out_dir, 1))
        wait_for_gang(out_dir, 1)
        trained_before_loss = max(record["step"] for record in steps(out_dir) if record["attempt"] == 1)
        assert len(places(out_dir)) == 1

        cluster.add_node(num_cpus=1)
        wait_for_gang(out_dir, 2)
        assert len(places(out_dir)) == 2

        given_notice = node_of(cluster, out_dir, 0)
        drain(cluster, given_notice, seconds=300)
        wait_for_gang(out_dir, 3)
        assert [place["node_id"] == given_notice.node_id for place in places(out_dir).values()] == [False]
        assert driver.wait(timeout=300) == 0, log.read_text()
    restarts = events(out_dir, "gang_restart")
    assert [(event["kind"], event["world_size"]) for event in restarts] == [
        ("loss", 1),
        ("made_way", 2),
        ("made_way", 1),
    ]
    worlds = [(event["from_world"], event["to_world"]) for event in events(out_dir, "resize")]
    assert worlds == [(2, 1), (1, 2), (2, 1)]
    # What a gang that made way had done was saved, and what one left that lost a node, the other node held: after the
    # loss the gang of another size goes on from the step at which it was, or the one before.
    starts = [event["resumed_step"] for event in events(out_dir, "start")]
    assert events(out_dir, "start")[1]["restored_from"] == "memory"
    assert starts[1] >= trained_before_loss - 1
    assert starts[2:] == [event["step"] for event in events(out_dir, "resize")[1:]]
    assert believed(out_dir, "sequence_hash") == believed(calm, "sequence_hash")
    losses, undisturbed = believed(out_dir, "loss"), believed(calm, "loss")
    assert max(abs(losses[step] - undisturbed[step]) for step in undisturbed) < 0.2
