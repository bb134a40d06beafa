"""What `headrace watch` reads of a run: its folder alone, on a disk or in an object store."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from cluster.find import find_run_folder
from cluster.run_holder import run_holder
from data_shards.settings import is_remote
from data_shards.storage import Folder, open_folder
from monitoring.columns import Columns
from monitoring.history import read_fence
from monitoring.journal_columns import read_columns
from monitoring.runs import read_run_folder
from monitoring.watch import Watched, watched

_READ = ("run.json", "journal/attempt-", "attempts/")
_ELSEWHERE = "a driver elsewhere"


class WatchSource(AbstractContextManager["WatchSource"]):
    """Reads one run again and again. A run in an object store is mirrored into a temporary folder."""

    def __init__(self, text: str, runs_dir: Path | None, clock: Callable[[], float] = time.time) -> None:
        """`text`: a run's name, folder, id, or the address of its folder. Raises MonitoringError or DataError."""
        self._clock = clock
        self._remote: Folder | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if is_remote(text):
            self._remote = open_folder(text)
            self._temporary = tempfile.TemporaryDirectory(prefix="headrace-watch-")
            mirror(self._remote, Path(self._temporary.name))
            self._run = read_run_folder(Path(self._temporary.name))
        else:
            self._run = find_run_folder(text, runs_dir)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes the mirror."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def read(self) -> Watched:
        """The run as it is now."""
        out_dir = self._run.out_dir
        if self._remote is not None:
            mirror(self._remote, out_dir)
        # Who drives it comes first: a driver that ends meanwhile has written its end before.
        driver = run_holder(out_dir) if self._remote is None else _ELSEWHERE
        columns = read_columns(out_dir)
        if self._remote is not None and _has_ended(columns):
            driver = None
        fence = read_fence(out_dir)
        return watched(self._run.name, self._run.run_id, columns, fence, driver=driver, now=self._clock())


def mirror(folder: Folder, to: Path) -> None:
    """Copy what a status needs of a run's folder, as far as it is not there in the same size."""
    for prefix in _READ:
        for name, size in folder.sizes(prefix).items():
            path = to / name
            if path.exists() and path.stat().st_size == size:
                continue
            data = folder.read(name)
            if data is not None:  # it may be gone since it was listed
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def _has_ended(columns: Columns) -> bool:
    told = [event for event in columns.events if event.get("event") in ("start", "end")]
    return bool(told) and told[-1]["event"] == "end"
