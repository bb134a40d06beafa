"""How far the preparation is, on the screen: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_shards.prepare import PrepareProgress

logger = logging.getLogger(__name__)

LINE_SECONDS = 5.0


class PrepareView:
    """Takes `PrepareProgress` as prepare goes on; shows nothing where nothing is to be done."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._line_time: float | None = None
        self._bar: Progress | None = None

    def __enter__(self) -> PrepareView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, progress: PrepareProgress) -> None:
        """Take the newest numbers."""
        if progress.phase == "tokenizer":
            logger.info("reading the corpus and its tokenizer, %d units of work", progress.units_total)
        elif progress.phase == "units" and self._console.is_terminal:
            self._show_bar(progress)
        elif progress.phase == "units":
            self._show_line(progress)

    def _show_bar(self, progress: PrepareProgress) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console)
            self._bar.add_task("", total=progress.units_total)
            self._bar.start()
        text = f"prepared {progress.tokens:,} tokens"
        self._bar.update(self._bar.task_ids[0], completed=progress.units_done, description=text)

    def _show_line(self, progress: PrepareProgress) -> None:
        now = self._clock()
        is_last = progress.units_done == progress.units_total
        if self._line_time is None or now - self._line_time >= LINE_SECONDS or is_last:
            self._line_time = now
            done, total = progress.units_done, progress.units_total
            logger.info("prepared %d of %d units, %s tokens", done, total, f"{progress.tokens:,}")
