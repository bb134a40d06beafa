"""The processes of a run, found by their titles."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.processes import is_exiting
from cluster.processes import is_over as _is_over


@dataclass(frozen=True)
class RunProcess:
    """A process of a run. role: what it is in the run, `rank`, `supervisor`, `zygote`, `sender` and such."""

    pid: int
    role: str
    rank: int | None


def read_titles() -> dict[int, str]:
    """Each process's title, as `ps` shows it; those that have ended, or are about to, are left out."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            title = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # it has ended meanwhile
            continue
        if title and not is_exiting(int(path.name)):
            found[int(path.name)] = title
    return found


def read_parents() -> dict[int, int]:
    """Each process's parent."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        found[int(path.parent.name)] = int(after_name[1])
    return found


def processes_of(name: str, titles: Mapping[int, str]) -> list[RunProcess]:
    """The processes of the run of that name, in the order of their numbers. Pure."""
    title_of = re.compile(rf"headrace: ([a-z ]+?)(?: (\d+)(?:/\d+)?)? of {re.escape(name)}")
    matches = {pid: match for pid, title in sorted(titles.items()) if (match := title_of.fullmatch(title))}
    return [RunProcess(pid, match[1], int(match[2]) if match[2] else None) for pid, match in matches.items()]


def descendants(ancestors: Iterable[int], parents: Mapping[int, int]) -> set[int]:
    """All processes below these. Pure."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = list(ancestors)
    while waiting:
        below = [pid for pid in children.get(waiting.pop(), []) if pid not in found]
        found.update(below)
        waiting += below
    return found


def send(pids: Iterable[int], number: signal.Signals) -> int:
    """Signal those processes that are there; how many were."""
    reached = 0
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        reached += 1
    return reached


class GoneWatch:
    """Tells when the last of some processes has ended. Close it."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pidfds = [pidfd for pid in pids if (pidfd := _open_pidfd(pid)) is not None]

    def is_over(self) -> bool:
        """Whether all have ended."""
        return all(_is_over(pidfd) for pidfd in self._pidfds)

    def close(self) -> None:
        """Let go of them."""
        for pidfd in self._pidfds:
            os.close(pidfd)
        self._pidfds = []


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
