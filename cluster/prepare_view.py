"""How far the preparation is, on the screen: a bar on a terminal, now and then a line elsewhere; what it left out."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_shards.dataset import Dataset
from data_shards.prepare import PrepareProgress

logger = logging.getLogger(__name__)

LINE_SECONDS = 5.0


class PrepareView:
    """Takes `PrepareProgress` as prepare goes on; shows nothing where nothing is to be done."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._line_time: float | None = None
        self._began: tuple[float, int] | None = None  # when the first unit of this prepare was done, tokens by then
        self.has_worked = False  # whether there was anything to do
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
            self.has_worked = True
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
        text = f"prepared {progress.tokens:,} tokens{self._rate(progress)}"
        self._bar.update(self._bar.task_ids[0], completed=progress.units_done, description=text)

    def _show_line(self, progress: PrepareProgress) -> None:
        now = self._clock()
        is_last = progress.units_done == progress.units_total
        if self._line_time is None or now - self._line_time >= LINE_SECONDS or is_last:
            self._line_time = now
            done, total = progress.units_done, progress.units_total
            logger.info(
                "prepared %d of %d units, %s tokens%s", done, total, f"{progress.tokens:,}", self._rate(progress)
            )

    def _rate(self, progress: PrepareProgress) -> str:
        """Tokens a second since the first unit was done, or nothing by then."""
        now = self._clock()
        if self._began is None:
            self._began = now, progress.tokens
        seconds, tokens = now - self._began[0], progress.tokens - self._began[1]
        return f", {tokens / seconds:,.0f} a second" if seconds > 0 and tokens > 0 else ""


def left_out_text(dataset: Dataset) -> str | None:
    """What prepare left out of a dataset, by reason, and where their places are listed; None if nothing. Pure."""
    reasons = Counter[str]()
    for note in dataset.unit_notes.values():
        reasons.update(note.skipped)
    if not reasons:
        return None
    counts = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
    return f"left out: {reasons.total():,} bad records ({counts}); see {dataset.dir}/rejects.parquet"
