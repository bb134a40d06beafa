"""When each step of an arm ended, and what its processes had used by then. Standard library alone: every arm has it.

The same class stamps all arms: peers call `Stamps.step` when they have read the loss of a step, and a run of Headrace
names `on_event` as its callback, which is told of a step once its loss has been read.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SETTINGS = "stamps.json"


def tree_cpu_seconds(root: int) -> float:
    """User and system time so far of all that descends from a process, with those that ended; not its own."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        pid = int(path.parent.name)
        children.setdefault(int(fields[1]), []).append(pid)
        ticks[pid] = sum(map(int, fields[11:15]))
    total, waiting = 0, list(children.get(root, []))
    while waiting:
        pid = waiting.pop()
        total += ticks[pid]
        waiting += children.get(pid, [])
    return total / _TICKS_PER_SECOND


class Stamps:
    """The steps of one rank. At the steps `marks` CPU times are taken too; with the last of them all is written.

    root: the process that all processes of the arm descend from.
    """

    def __init__(self, path: Path, root: int, marks: list[int]) -> None:
        self._path, self._root, self._marks = path, root, marks
        self._losses: list[float] = []
        self._seconds: list[float] = []
        self._cpu: dict[int, dict[str, float]] = {}

    def step(self, loss: float) -> None:
        """A step has ended, and its loss is read. The clock is the system's, the same in all processes."""
        self._losses.append(loss)
        self._seconds.append(time.perf_counter())
        number = len(self._losses)
        if number in self._marks:
            self._cpu[number] = {"rank": time.process_time(), "tree": tree_cpu_seconds(self._root)}
        if number == self._marks[-1]:
            self._write()

    def _write(self) -> None:
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps({"losses": self._losses, "seconds": self._seconds, "cpu": self._cpu}))
        draft.replace(self._path)


_stamps: dict[Path, Stamps] = {}


def on_event(event: Any) -> None:
    """Headrace's callback. The settings lie beside the run's folder: in a cluster's workers no variable arrives."""
    if event.kind != "step":
        return
    folder = Path(event.out_dir).parent
    if folder not in _stamps:
        asked = json.loads((folder / SETTINGS).read_text())
        _stamps[folder] = Stamps(folder / "rank-0.json", asked["root"], asked["marks"])
    _stamps[folder].step(event.values["loss"])
