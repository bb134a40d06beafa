"""When a job's driver is started anew: the policy, and the processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster.jobs.driver import KeptDriver
from cluster.jobs.driver_restarts import Again, DriverRestarts, Over
from tests.end_to_end.headrace import wait_until
from trainer.run_lock import LEASE_FILE
from trainer.stop import ask_to_stop


@pytest.mark.parametrize("status", [0, 1, 2, 3, 130])
def test_driver_that_ends_by_itself_ends_the_job_with_its_status(status: int) -> None:
    assert DriverRestarts(budget=5).after(status, 10.0, stop_asked=False)[1] == Over(status)


def test_driver_interrupted_on_a_stop_is_a_stop() -> None:
    assert DriverRestarts(budget=5).after(130, 10.0, stop_asked=True)[1] == Over(3)


def test_driver_ended_by_signals_is_started_anew_with_growing_waits_within_the_budget() -> None:
    restarts, waits = DriverRestarts(budget=8), []
    for _ in range(8):
        restarts, action = restarts.after(-9, 10.0, stop_asked=False)
        assert isinstance(action, Again)
        waits.append(action.after_seconds)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    _, action = restarts.after(-9, 10.0, stop_asked=False)
    assert isinstance(action, Over)
    assert action.exit_status == 1
    assert "SIGKILL; 8 restarts used of cluster.max_driver_restarts" in action.text


def test_driver_that_ran_long_begins_the_waits_anew_but_not_the_budget() -> None:
    restarts = DriverRestarts(budget=2, used=1, quick=4)
    restarts, action = restarts.after(-11, 3600.0, stop_asked=False)
    assert action == Again(1.0, "the driver was ended by SIGSEGV; start 2 of 2 anew in 1 s")
    assert isinstance(restarts.after(-11, 3600.0, stop_asked=False)[1], Over)


def test_driver_killed_while_it_was_to_stop_is_not_started_anew() -> None:
    _, action = DriverRestarts(budget=5).after(-9, 10.0, stop_asked=True)
    assert isinstance(action, Over)
    assert action.exit_status == 1


def kept(out_dir: Path, script: str, budget: int = 3) -> tuple[int, list[float]]:
    """The job's exit status, and the waits between its drivers. The script may use `log`, a file that it appends to."""
    waits: list[float] = []
    prologue = (
        f"import os, signal, sys, time; log = open({str(out_dir / 'log')!r}, 'a'); print('up', file=log, flush=True);"
    )
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        status = KeptDriver([sys.executable, "-c", prologue + script], out_dir, budget, out_dir, waits.append).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status, waits


def starts(out_dir: Path) -> int:
    log = out_dir / "log"
    return log.read_text().count("up\n") if log.exists() else 0


@pytest.mark.parametrize("status", [0, 2, 3])
def test_kept_driver_passes_on_the_status(tmp_path: Path, status: int) -> None:
    assert kept(tmp_path, f"sys.exit({status})") == (status, [])
    assert starts(tmp_path) == 1


def test_kept_driver_that_is_killed_runs_again_until_the_budget_is_used(tmp_path: Path) -> None:
    assert kept(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", budget=2) == (1, [1.0, 2.0])
    assert starts(tmp_path) == 3


def test_kept_driver_that_is_killed_once_ends_well(tmp_path: Path) -> None:
    script = f"n = open({str(tmp_path / 'log')!r}).read().count('up'); n > 1 or os.kill(os.getpid(), signal.SIGKILL)"
    assert kept(tmp_path, script) == (0, [1.0])
    assert starts(tmp_path) == 2


def test_kept_driver_that_prepares_is_interrupted_by_a_stop(tmp_path: Path) -> None:
    def stop() -> None:
        wait_until(lambda: starts(tmp_path) == 1, "the driver's start")
        ask_to_stop(tmp_path)

    thread = threading.Thread(target=stop)
    thread.start()
    assert kept(tmp_path, "time.sleep(60)") == (3, [])
    thread.join()


def test_kept_driver_that_trains_answers_a_stop_itself(tmp_path: Path) -> None:
    """It holds the run: a signal would be a second request, which ends it without a save."""
    mark, lease = tmp_path / "stop", tmp_path / LEASE_FILE
    values = {"host": socket.gethostname(), "started": "", "beats": 0}
    script = (
        f"import json, pathlib; values = {values!r}; values['pid'] = os.getpid();"
        f"pathlib.Path({str(lease)!r}).write_text(json.dumps(values));"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9));"
        f"time.sleep(2); open({str(mark)!r}, 'w').close(); time.sleep(2); sys.exit(3)"
    )
    assert kept(tmp_path, script) == (3, [])
    assert json.loads(lease.read_text())["pid"] != os.getpid()


def test_kept_driver_ends_with_its_entry_process(tmp_path: Path) -> None:
    driver = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    code = (
        "import sys; from pathlib import Path; from cluster.jobs.driver import KeptDriver;"
        f"KeptDriver([sys.executable, '-c', {driver!r}], Path({str(tmp_path)!r}), 3, Path('.')).run()"
    )
    entry = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert entry.stdout is not None
    pid = int(entry.stdout.readline())
    entry.kill()
    entry.wait()
    entry.stdout.close()
    wait_until(lambda: not _is_alive(pid), "the driver's end", deadline_seconds=20)


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
