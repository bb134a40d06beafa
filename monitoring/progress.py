"""What a training says on the screen: a bar on a terminal, plain lines elsewhere. Fed with journal records."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from monitoring.journal import Record, is_step, number
from monitoring.units import duration

PLAIN_SECONDS = 10.0  # between two plain lines
_SPEED_STEPS = 20  # the time left follows from the median speed of so many steps


class ProgressView:
    """Shows tokens done, losses, tokens per second and time left; also failures, restarts and bad shards."""

    def __init__(
        self,
        total_tokens: int,
        console: Console | None = None,
        is_terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Shows nothing before the first record. `is_terminal` None: as the console says. `clock`: in seconds."""
        self._total = total_tokens
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._line_time: float | None = None
        self._step: Record | None = None
        self._shown: Record | None = None
        self._val_loss: float | None = None
        self._val_accuracy: float | None = None
        self._shards_left_out: set[str] = set()
        self._speeds: deque[float] = deque(maxlen=_SPEED_STEPS)
        self._bar = (
            _make_bar(self._console) if (self._console.is_terminal if is_terminal is None else is_terminal) else None
        )
        self._task = self._bar.add_task("", total=total_tokens, numbers="") if self._bar else None

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def feed(self, records: Iterable[Record]) -> None:
        """Takes new records, in order, and shows them."""
        for record in records:
            if is_step(record):
                self._take_step(record)
            elif record.get("event") == "eval":
                self._take_evaluation(record)
            elif record.get("event") == "excluded":
                self._take_excluded(record)
            elif (text := _event_text(record)) is not None:
                self._say(text)
        if self._bar and self._task is not None and self._step:
            self._bar.start()
            self._bar.update(self._task, completed=self._step["tokens"], numbers=self._numbers())

    def close(self) -> None:
        """Shows the last state and gives the screen back. May be called twice."""
        if self._bar:
            self._bar.stop()
        elif self._step is not self._shown:
            self._show_line()

    def _take_step(self, record: Record) -> None:
        self._step = record
        if speed := number(record, "tokens_per_second"):
            self._speeds.append(speed)
        now = self._clock()
        if self._line_time is None or now - self._line_time >= PLAIN_SECONDS:
            self._line_time = now
            self._show_line()

    def _take_evaluation(self, record: Record) -> None:
        self._val_loss, self._val_accuracy = number(record, "val_loss"), number(record, "val_accuracy")
        self._step = self._step or record
        self._show_line()

    def _take_excluded(self, record: Record) -> None:
        shard = record["shard"]
        if shard not in self._shards_left_out:  # of its many sequences the first speaks for all
            self._shards_left_out.add(shard)
            self._say(f"warning: leaving out what cannot be read of {shard}: {record['reason']}")

    def _show_line(self) -> None:
        if self._bar is None and self._step is not None:
            self._shown = self._step
            self._say(f"step {self._step['step']:,}  {self._numbers()}")

    def _say(self, text: str) -> None:
        printable = "".join(character if character.isprintable() else " " for character in text)
        if self._bar is not None:
            self._bar.console.print(Text(printable))
            return
        # Not through the console, which would wrap long lines, and colour them where FORCE_COLOR is set.
        self._console.file.write(printable + "\n")
        self._console.file.flush()

    def _numbers(self) -> str:
        assert self._step is not None
        tokens, loss = self._step["tokens"], number(self._step, "loss")
        parts = [f"{tokens:,}/{self._total:,} tokens ({tokens / self._total:.0%})"]
        parts += [] if loss is None else [f"loss {loss:.3f}"]
        parts += [] if self._val_loss is None else [f"val loss {self._val_loss:.3f}"]
        parts += [] if self._val_accuracy is None else [f"val accuracy {self._val_accuracy:.1%}"]
        if self._speeds:
            speed = statistics.median(self._speeds)
            parts += [f"{speed:,.0f} tokens/s", f"{duration(max(0, self._total - tokens) / speed)} left"]
        return "  ".join(parts)


def _make_bar(console: Console) -> Progress:
    return Progress(BarColumn(20), TextColumn("{task.fields[numbers]}", markup=False), console=console)


def _event_text(record: Record) -> str | None:
    match record.get("event"):
        case "start" if record.get("resumed_step"):
            return f"attempt {record['attempt']} goes on from step {record['resumed_step']:,}"
        case "checkpoint_bad":
            return f"warning: passed over the checkpoint {record.get('path')}: {record.get('reason')}"
        case "rank_dead":
            return f"rank {record.get('rank')} on {record.get('node')} died: {record.get('reason')}"
        case "restart":
            return f"restarted in {record['seconds']:.1f} s from step {record['resumed_step']:,}"
    return _trouble_text(record)


def _trouble_text(record: Record) -> str | None:
    """What went wrong without the end of a rank, and what follows from it."""
    match record.get("event"):
        case "gang_restart":
            return f"starting the workers again: {record.get('reason')}"
        case "resize":
            return f"going on with {record.get('to_world')} workers instead of {record.get('from_world')}"
        case "fenced":
            return f"attempt {record['attempt']} was ended: attempt {record.get('newest')} has taken its place"
        case "checkpoint_failed":
            return f"warning: no checkpoint of step {record.get('step')}: {record.get('reason')}"
        case "checkpoint_late":
            return f"warning: the checkpoint of step {record.get('step')} is late, its storage is slow"
        case "bad_numbers":
            found = f"{record.get('what')} {number(record, 'value')}"
            return f"warning: step {record.get('step')}: {found}; {record.get('action')}"
        case "slow_rank":
            pace = f"{number(record, 'seconds')} s a step, the others {number(record, 'others_seconds')} s"
            return f"warning: rank {record.get('rank')} on {record.get('node')} is slow: {pace}"
    return None
