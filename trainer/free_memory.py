"""How much memory the machine has left."""

from __future__ import annotations

from pathlib import Path

LARGEST_SHARE_OF_MEMORY = 0.25
"""Snapshots of a machine's ranks, and the copies that it holds for others, take at most so much of what is free."""


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Bytes that can be had without swapping: of the machine (MemAvailable), and within this process's cgroup."""
    fields = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    available = 1024 * int(fields["MemAvailable"].split()[0])
    left = _left_in_cgroup(root)
    return available if left is None else min(available, left)


def _left_in_cgroup(root: Path) -> int | None:
    """Bytes up to the cgroup's limit, with those of files that can be dropped; None where there is no limit."""
    for base, limit_name, used_name in (
        (root / "sys/fs/cgroup", "memory.max", "memory.current"),
        (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        for folder in (base / cgroup_path(root).lstrip("/"), base):
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None and used is not None:
                return max(0, limit - used + _inactive_file(folder / "memory.stat"))
    return None


def cgroup_path(root: Path) -> str:
    """The path of this process's cgroup that may limit memory; empty where it is not known."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            return path
    return ""


def _inactive_file(stat: Path) -> int:
    fields = (line.partition(" ") for line in _text(stat).splitlines())
    return next((int(value) for name, _, value in fields if name == "inactive_file"), 0)


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no such file, or one that this user may not read
        return ""
