"""How a run is asked to stop: by a mark in its folder, or by SIGTERM or Ctrl-C to a rank."""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from types import FrameType

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_mark(out_dir: Path) -> Path:
    """The empty file whose presence asks the run to save at the next step border and end."""
    return out_dir / "stop"


def way_mark(out_dir: Path) -> Path:
    """The empty file by which a driver asks a gang for its place, to go on with another one: it saves and ends."""
    return out_dir / "make-way"


def ask_to_stop(out_dir: Path) -> None:
    """Ask the run to save at the next step border and end."""
    stop_mark(out_dir).touch()


def ask_to_make_way(out_dir: Path) -> None:
    """Ask the gang to save at the next step border and end, since another one is to go on at once."""
    way_mark(out_dir).touch()


def is_stop_asked(out_dir: Path) -> bool:
    """Whether the run was asked to end."""
    return stop_mark(out_dir).exists()


def is_to_make_way(out_dir: Path) -> bool:
    """Whether the gang was asked for its place, and for no more than that."""
    return way_mark(out_dir).exists() and not is_stop_asked(out_dir)


def clear_make_way(out_dir: Path) -> None:
    """Take back the wish for a gang's place."""
    way_mark(out_dir).unlink(missing_ok=True)


def clear_marks(out_dir: Path) -> None:
    """Take back all that an earlier driver or user asked."""
    stop_mark(out_dir).unlink(missing_ok=True)
    clear_make_way(out_dir)


class StopRequest:
    """Callable that says whether this rank was asked to stop.

    SIGTERM and SIGINT ask once; a second one ends the process at once, as it would have without us. The marks are
    looked for by a thread: a folder on storage that stalls must not hold up a step.
    """

    def __init__(self, out_dir: Path, watches_mark: bool) -> None:
        self._marks = (stop_mark(out_dir), way_mark(out_dir))
        self._is_marked = self._signalled = False
        if watches_mark:
            threading.Thread(target=self._watch, name="stop-marks", daemon=True).start()
        for name in SIGNALS:
            signal.signal(name, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        for name in SIGNALS:
            signal.signal(name, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self._signalled or self._is_marked

    def _watch(self) -> None:
        while not self._is_marked:
            try:
                self._is_marked = any(mark.exists() for mark in self._marks)
            except OSError as error:  # it will be looked for again
                logger.debug("the marks cannot be looked for: %s", error)
            time.sleep(LOOK_SECONDS)
