"""The injector on a made-up run: processes with the right titles, a journal written by hand, no Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.chaos.cluster import ChaosCluster
from cluster.chaos.driver import Driver
from cluster.chaos.injector import Injector, RunUnderTest
from cluster.chaos.plan import Fault
from tests.end_to_end.headrace import wait_until

SLEEPER = "import setproctitle, sys; setproctitle.setproctitle(sys.argv[1]); print(flush=True); sys.stdin.read()"
# A raylet below which a supervisor runs, below which a rank runs.
NODE = """
import subprocess, sys
argument = sys.argv[1:]
child = subprocess.Popen([sys.executable, "-c", argument[0], *argument[2:]]) if argument[2:] else None
import setproctitle
setproctitle.setproctitle(argument[1])
print(flush=True)
sys.stdin.read()
"""


class MadeUpRun:
    """Ranks that sleep, a driver that sleeps, and a cluster that notes what it is told."""

    def __init__(self, folder: Path) -> None:
        self.name, self.out_dir = folder.name, folder / "run"
        self.pid = os.getpid()
        self.address = "nowhere:1"
        self.raylets: dict[int, int] = {}
        self.orders: list[dict[str, Any]] = []
        self.starts: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.driver = self.sleeper("a driver")
        self.step = 0

    def sleeper(self, title: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", SLEEPER, title], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        self.processes.append(process)
        return process

    def rank(self, number: int) -> subprocess.Popen[bytes]:
        return self.sleeper(f"headrace: rank {number}/2 of {self.name}")

    def reach(self, step: int) -> None:
        """The journal has all steps up to this one."""
        path = self.out_dir / "journal/attempt-0001.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            for number in range(self.step + 1, step + 1):
                file.write(json.dumps({"step": number, "attempt": 1, "time": time.time()}) + "\n")
        self.step = step

    # as a driver

    def poll(self) -> int | None:
        return self.driver.poll()

    def signal(self, number: signal.Signals) -> None:
        self.driver.send_signal(number)

    def start(self, address: str) -> None:
        self.starts.append(address)
        self.driver = self.sleeper("a driver")

    # as a cluster

    def order(self, what: str, **fields: Any) -> Future[None]:
        self.orders.append({"do": what, **fields})
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def under_test(self) -> RunUnderTest:
        me = cast(Any, self)
        return RunUnderTest(self.name, self.out_dir, cast(Driver, me), cast(ChaosCluster, me), None)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[MadeUpRun]:
    run = MadeUpRun(tmp_path)
    try:
        yield run
    finally:
        run.close()


def turn_until(injector: Injector, count: int) -> None:
    """Turn until so many faults have happened."""

    def happened() -> bool:
        injector.turn()
        return len(injector.injections) >= count

    wait_until(happened, f"{count} faults", 20)


def test_rank_is_killed_when_the_journal_has_the_step_and_not_before(run: MadeUpRun) -> None:
    first, second = run.rank(0), run.rank(1)
    injector = Injector([Fault(kind="kill_rank", rank=1, at_step=5)], run.under_test())
    run.reach(4)
    injector.turn()
    assert second.poll() is None and injector.not_done == [0]
    run.reach(6)
    turn_until(injector, 1)
    assert second.wait(10) == -signal.SIGKILL and first.poll() is None
    [injection] = injector.injections
    assert (injection.index, injection.step) == (0, 6)
    assert injection.target == f"rank 1 (process {second.pid})"
    assert injector.not_done == []


def test_fault_waits_for_its_target_and_for_a_new_step_after_the_fault_before(run: MadeUpRun) -> None:
    faults = [Fault(kind="kill_rank", rank=rank, at_step=step) for rank, step in ((0, 2), (0, 3), (1, 3))]
    injector = Injector(faults, run.under_test())
    run.reach(5)
    injector.turn()
    assert injector.injections == []  # there is no rank yet
    run.rank(0)
    run.rank(1)
    turn_until(injector, 1)
    again = run.rank(0)
    injector.turn()
    assert len(injector.injections) == 1 and again.poll() is None
    run.reach(6)
    turn_until(injector, 3)  # the last two come together
    assert [injection.step for injection in injector.injections] == [5, 6, 6]


def test_rank_stopped_for_a_while_goes_on_and_at_the_latest_at_the_end(run: MadeUpRun) -> None:
    brief, long = run.rank(0), run.rank(1)
    faults = [
        Fault(kind="stop_rank", rank=0, at_step=1, seconds=0.2),
        Fault(kind="stop_rank", rank=1, at_step=1),
    ]
    injector = Injector(faults, run.under_test())
    run.reach(1)
    turn_until(injector, 2)
    wait_until(lambda: state(long) == "T", "the stop", 10)

    def goes_on() -> bool:
        injector.turn()
        return state(brief) != "T"

    wait_until(goes_on, "going on", 10)
    assert state(long) == "T"
    injector.close()
    wait_until(lambda: state(long) != "T", "going on at the end", 10)


def state(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_driver_killed_is_started_again_when_its_ranks_have_ended(run: MadeUpRun) -> None:
    rank, killed = run.rank(0), run.driver
    injector = Injector([Fault(kind="kill_driver", after_seconds=0)], run.under_test())
    turn_until(injector, 1)
    assert killed.wait(10) == -signal.SIGKILL
    injector.turn()
    assert injector.restarting and run.starts == []
    rank.kill()

    def started_again() -> bool:
        injector.turn()
        return not injector.restarting

    wait_until(started_again, "the same command again", 10)
    [injection] = injector.injections
    assert run.starts == ["nowhere:1"]
    assert injection.exit_status == -signal.SIGKILL
    assert injection.gone_seconds is not None and 0 < injection.gone_seconds < 10


def test_node_of_a_rank_is_killed_with_all_below_it_and_another_is_asked_for(run: MadeUpRun) -> None:
    supervisor = f"headrace: supervisor 1 of {run.name}"
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, NODE, "a raylet", NODE, supervisor],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    run.processes.append(node)
    assert node.stdout is not None
    node.stdout.readline()
    node.stdout.readline()
    run.raylets = {4: node.pid}
    injector = Injector([Fault(kind="kill_node", rank=1, at_step=1, seconds=0.1)], run.under_test())
    run.reach(1)
    turn_until(injector, 1)
    assert node.wait(10) == -signal.SIGKILL
    assert run.orders[0] == {"do": "remove", "node": 4, "graceful": False}

    def asked() -> bool:
        injector.turn()
        return len(run.orders) == 2 and injector.injections[0].gone_seconds is not None

    wait_until(asked, "another node", 10)
    assert run.orders[1] == {"do": "add"}
    assert injector.injections[0].target.startswith(f"node 4 (raylet {node.pid}, ")


def test_mark_of_a_rank_is_taken_for_the_fault_of_its_place_in_the_list(run: MadeUpRun) -> None:
    faults = [
        Fault(kind="kill", rank=0, at_step=3, phase="forward"),
        Fault(kind="kill_rank", rank=0, at_step=9),
        Fault(kind="kill", rank=1, at_step=6, phase="after-save"),
    ]
    injector = Injector(faults, run.under_test())
    (run.out_dir / "faults").mkdir(parents=True)
    (run.out_dir / "faults/0001.json").write_text(json.dumps({"time": 1234.5, "step": 8, "attempt": 2, "pid": 1}))
    injector.turn()
    [injection] = injector.injections
    assert (injection.index, injection.time, injection.step) == (2, 1234.5, 7)
    assert injection.target == "rank 1, after-save of step 8"
    assert injector.not_done == [0, 1]
