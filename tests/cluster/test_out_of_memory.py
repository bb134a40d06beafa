from pathlib import Path

import pytest

from cluster.out_of_memory import (
    ADVICE,
    MemoryKills,
    is_memory_error,
    kernel_killed,
    kernel_reason,
    memory_limit,
    read_kills,
)

GIB = 1 << 30


def machine(root: Path, cgroup: str, **files: str) -> Path:
    """A file system with what the kernel shows; names of files with dots for slashes and dashes for dots."""
    shown = {"proc/self/cgroup": cgroup, "proc/vmstat": "nr_free_pages 5\noom_kill 12\n"}
    shown["proc/meminfo"] = f"MemTotal:       {8 * GIB // 1024} kB\nMemFree:  1 kB\n"
    for name, text in {**shown, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_read_kills_second_version(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/mill/memory.events": "low 0\noom 4\noom_kill 3\noom_group_kill 0\n"}
    files["sys/fs/cgroup/mill/memory.max"] = f"{2 * GIB}\n"
    root = machine(tmp_path, "0::/mill\n", **files)
    assert read_kills(root) == MemoryKills(3, 12)
    assert memory_limit(root) == 2 * GIB


def test_read_kills_first_version_beside_an_empty_second(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/memory/pod/mill"
    files = {f"{base}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"}
    files[f"{base}/memory.limit_in_bytes"] = "9223372036854771712\n"
    root = machine(tmp_path, "4:cpu,memory:/pod/mill\n0::/\n", **files)
    assert read_kills(root) == MemoryKills(2, 12)
    assert memory_limit(root) == 8 * GIB  # no limit of its own


def test_read_kills_container_that_sees_its_own_part_alone(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.events": "oom_kill 1\n", "sys/fs/cgroup/memory.max": "max\n"}
    root = machine(tmp_path, "0::/kubepods/pod7/mill\n", **files)
    assert read_kills(root) == MemoryKills(1, 12)
    assert memory_limit(root) == 8 * GIB


def test_read_kills_where_nothing_is_told(tmp_path: Path) -> None:
    assert read_kills(tmp_path) == MemoryKills(None, None)
    assert memory_limit(tmp_path) is None


def test_read_kills_of_this_machine_never_fall() -> None:
    before, after = read_kills(), read_kills()
    assert after.machine is not None and before.machine is not None and after.machine >= before.machine
    assert memory_limit() is not None


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((3, 12), (4, 13), True),
        ((3, 12), (3, 13), False),  # in another cgroup
        ((None, 12), (None, 13), True),
        ((None, 12), (None, 12), False),
        ((None, None), (None, None), False),
    ],
)
def test_kernel_killed(
    before: tuple[int | None, int | None], after: tuple[int | None, int | None], expected: bool
) -> None:
    assert kernel_killed(MemoryKills(*before), MemoryKills(*after)) is expected


def test_kernel_reason_gives_peak_and_limit() -> None:
    reason = kernel_reason(3 * GIB, 4 * GIB)
    assert reason == (
        f"killed by the kernel for want of memory; its peak was 3072 MiB of 4096 MiB that there are; {ADVICE}"
    )
    assert "its peak was 3072 MiB; " in kernel_reason(3 * GIB, None)


@pytest.mark.parametrize(
    ("error_type", "message", "expected"),
    [
        ("MemoryError", "", True),
        ("torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("numpy._core._exceptions._ArrayMemoryError", "Unable to allocate 7 TiB", True),
        ("RuntimeError", "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9", True),
        ("OSError", "[Errno 12] Cannot allocate memory", True),
        ("RuntimeError", "shape mismatch", False),
        ("ValueError", "out of memory", False),
    ],
)
def test_is_memory_error(error_type: str, message: str, expected: bool) -> None:
    assert is_memory_error(error_type, message) is expected
