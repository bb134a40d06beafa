from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.harness.launch import group, pin_titled, rank_environments

CORE = frozenset({min(os.sched_getaffinity(0))})
WAIT = "import signal; signal.pause()"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_group_waits_for_all_and_starts_them_on_their_cores(tmp_path: Path) -> None:
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    with group("arm", tmp_path / "log") as processes:
        for _ in range(2):
            processes.start(python(code), CORE, {})
        processes.wait(30)
        assert processes.said().splitlines() == [str(sorted(CORE))] * 2


def test_group_tells_of_the_first_failure_and_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="arm: exit status 3: no luck"), group("arm", tmp_path / "log") as processes:
        processes.start(python(WAIT), CORE, {})
        processes.start(python("import os; print('no luck', flush=True); os._exit(3)"), CORE, {})
        processes.wait(30)
    assert all(process.returncode is not None for process in processes.processes)


def test_group_ends_at_its_deadline(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="not done at its deadline"), group("arm", tmp_path / "log") as processes:
        processes.start(python(WAIT), CORE, {})
        processes.wait(0.1)
    assert time.monotonic() - began < 20
    assert processes.processes[0].returncode is not None


def test_rank_environments_are_torchruns() -> None:
    first, second = rank_environments(2)
    assert (first["RANK"], second["RANK"]) == ("0", "1")
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert rank_environments(1) == [{}]
    assert rank_environments(1, even_one=True)[0]["WORLD_SIZE"] == "1"


def test_pin_titled_of_a_process_that_does_not_come_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no process is titled"):
        pin_titled(["no such title"], [0], 0.0)


def test_pin_titled_gives_up_without_a_word_when_it_is_over(tmp_path: Path) -> None:
    with group("arm", tmp_path / "log") as processes:
        processes.start(python("pass"), CORE, {})
        processes.wait(30)
        pin_titled(["no such title"], [0], 60.0, processes.has_ended)
        assert processes.has_ended()


def test_pin_titled_puts_a_process_on_its_core(tmp_path: Path) -> None:
    with group("arm", tmp_path / "log") as processes:
        processes.start(["sleep", "60"], frozenset(os.sched_getaffinity(0)), {"PATH": os.environ["PATH"]})
        pid = processes.processes[0].pid
        pin_titled(["sleep\x0060"], [max(os.sched_getaffinity(0))], 20)
        assert os.sched_getaffinity(pid) == {max(os.sched_getaffinity(0))}
