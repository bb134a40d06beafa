"""A rank that the kernel kills for want of memory, in a control group that has too little: diagnosed, and exact."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.headrace import events, steps, wait_until
from tests.faults.rank_world import Start, run_files
from tests.faults.test_rank_faults import file_of, finish, numbers, start_gang

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(300)]

ROOT = Path("/sys/fs/cgroup/memory")
LITTLE_BYTES = 16 << 20  # less than the fault takes
FAULTS = [
    {"kind": "slow", "rank": 0, "step": 4, "steps": 1, "seconds": 3.0},  # while the limit is set
    {"kind": "oom_kill", "rank": 0, "step": 6, "phase": "backward"},
]


class ControlGroup:
    """A memory control group of version 1, below this process's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def take(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    def limit(self, size: int) -> None:
        (self.path / "memory.limit_in_bytes").write_text(str(size))

    def needed_bytes(self) -> int:
        """What is used and cannot be given back."""
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        used = int((self.path / "memory.usage_in_bytes").read_text())
        return used - int(stat["total_inactive_file"]) - int(stat["total_active_file"])

    def kills(self) -> int:
        lines = (self.path / "memory.oom_control").read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    own = next(
        path for line in Path("/proc/self/cgroup").read_text().splitlines()
        for _, controllers, path in [line.split(":", 2)] if "memory" in controllers.split(",")
    )  # fmt: skip
    group = ControlGroup(ROOT / own.lstrip("/") / f"headrace-{os.getpid()}")
    yield group
    wait_until(lambda: not (group.path / "cgroup.procs").read_text(), "the group to be empty", 30)
    group.path.rmdir()


@pytest.mark.skipif(not os.access(ROOT, os.W_OK), reason="needs a memory control group of version 1 that it may write")
def test_rank_killed_by_the_kernel_for_want_of_memory_is_diagnosed_and_goes_on_exactly(
    tmp_path: Path, group: ControlGroup
) -> None:
    assert run_files(tmp_path / "jobs", [Start(file_of(tmp_path, "clean"))])[0]["status"] == 0
    supervisors = start_gang(file_of(tmp_path, "killed"), FAULTS)
    out_dir = tmp_path / "runs/killed"

    def squeeze() -> None:
        wait_until(lambda: any(record["step"] == 3 for record in steps(out_dir)), "the third step", 120)
        group.limit(group.needed_bytes() + LITTLE_BYTES)
        wait_until(lambda: group.kills() > 0, "the kernel to kill", 60)
        group.limit(-1)

    for supervisor in supervisors:
        group.take(supervisor.pid)
    squeezing = threading.Thread(target=squeeze, daemon=True)
    squeezing.start()
    ends = finish(supervisors, out_dir)
    squeezing.join(10)
    assert group.kills() == 1
    assert [end["status"] for end in ends] == ["finished", "finished"]
    [death] = events(out_dir, "rank_dead")
    assert death["reason"].startswith("killed by the kernel for want of memory; its peak was ")
    assert "train.micro_batch_size" in death["reason"]
    assert death["rank"] == json.loads(next((out_dir / "faults").glob("*1*")).read_text())["rank"] == 0
    assert numbers(out_dir) == numbers(tmp_path / "runs/clean")
