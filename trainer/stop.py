"""How a run is asked to stop: by a mark in its folder, or by SIGTERM to a rank."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType


def stop_mark(out_dir: Path) -> Path:
    """The file whose presence asks the run to save at the next step border and end."""
    return out_dir / "stop"


class StopRequest:
    """Callable that says whether this rank was asked to stop.

    SIGTERM asks once; a second one ends the process at once, as it would have without us.
    """

    def __init__(self, out_dir: Path, watches_mark: bool) -> None:
        self._mark = stop_mark(out_dir) if watches_mark else None
        self._signalled = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self._signalled or (self._mark is not None and self._mark.exists())
