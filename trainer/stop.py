"""How a run is asked to stop: by a mark in its folder, or by SIGTERM or Ctrl-C to a rank."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_mark(out_dir: Path) -> Path:
    """The file whose presence asks the run to save at the next step border and end."""
    return out_dir / "stop"


class StopRequest:
    """Callable that says whether this rank was asked to stop.

    SIGTERM and SIGINT ask once; a second one ends the process at once, as it would have without us.
    """

    def __init__(self, out_dir: Path, watches_mark: bool) -> None:
        self._mark = stop_mark(out_dir) if watches_mark else None
        self._signalled = False
        for name in SIGNALS:
            signal.signal(name, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        for name in SIGNALS:
            signal.signal(name, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self._signalled or (self._mark is not None and self._mark.exists())
