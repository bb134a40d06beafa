from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster.driver_cord import Cord, hold_on

DEADLINE_SECONDS = 20.0


def test_cord_that_is_let_go_is_noticed_by_every_worker() -> None:
    cord, lost = Cord("127.0.0.1", holders=3), [threading.Event() for _ in range(3)]
    for event in lost:
        hold_on(cord.address, event.set)
    assert not any(event.wait(0.05) for event in lost)
    cord.close()
    assert all(event.wait(DEADLINE_SECONDS) for event in lost)


def test_cord_that_was_let_go_before_is_refused() -> None:
    cord = Cord("127.0.0.1", holders=1)
    cord.close()
    with pytest.raises(OSError, match="refused") as raised:
        hold_on(cord.address)
    text = str(raised.value)
    assert socket.gethostname() in text
    assert f"the driver at 127.0.0.1:{cord.address[1]}" in text
    assert "must be able to open connections to the driver's machine" in text


def test_cord_ends_with_its_drivers_process_however_that_ends() -> None:
    code = (
        "from cluster.driver_cord import Cord; cord = Cord('127.0.0.1', 1); print(cord.address[1], flush=True); input()"
    )
    command = [sys.executable, "-c", code]
    root, lost = Path(__file__).parents[2], threading.Event()
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        hold_on(("127.0.0.1", int(driver.stdout.readline())), lost.set)
        driver.kill()
        assert lost.wait(DEADLINE_SECONDS)


def test_worker_that_holds_on_is_killed_when_its_driver_is_gone() -> None:
    cord = Cord("127.0.0.1", holders=1)
    code = (
        "import sys, time; from cluster.driver_cord import hold_on; hold_on(('127.0.0.1', int(sys.argv[1]))); "
        "print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(cord.address[1])]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "held\n"
        cord.close()
        assert worker.wait(DEADLINE_SECONDS) == -9
