"""The live page of a run on the terminal. Pure: what was read in, a frame out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from monitoring.columns import Columns, Steps, believed_columns, counted_steps
from monitoring.goodput import goodput_of
from monitoring.history import Fence
from monitoring.journal import Record, number
from monitoring.line_chart import line_chart, sparkline
from monitoring.rank_times import slowest_rank_text
from monitoring.status import RunStatus, run_status
from monitoring.units import duration

_STEPS_OF_STATUS = 64
_CHART_HEIGHT = 9
_MOST_TROUBLES = 3
_COLOURS = {
    "step": "green",
    "data wait": "cyan",
    "evaluation": "blue",
    "save": "yellow",
    "restart": "dark_orange",
    "lost work": "red",
    "queue": "bright_black",
}


@dataclass(frozen=True)
class Checkpoint:
    """A save, as the journal tells of it."""

    step: int
    seconds: float | None
    age_seconds: float


@dataclass(frozen=True)
class Watched:
    """A run at a moment, as a frame shows it."""

    status: RunStatus
    steps: Steps  # that count
    val_losses: tuple[tuple[float, float], ...]  # (tokens, nats per token)
    restarts: int
    recoveries: tuple[float, ...]  # seconds, of failures after which steps came
    checkpoints: tuple[Checkpoint, ...]  # newest last
    nodes: tuple[tuple[str, int], ...]  # name, ranks on it in the newest attempt
    slowest_rank: str | None


def watched(name: str, run_id: str, columns: Columns, fence: Fence, *, driver: str | None, now: float) -> Watched:
    """What a frame shows of a run, from its journal; `driver` and `now` as in `monitoring.status.run_status`."""
    columns = believed_columns(columns, fence)
    steps, _ = counted_steps(columns)
    # A status needs the newest steps alone; where the time went needs all of them.
    records = [*columns.events, *_records(columns.steps[-_STEPS_OF_STATUS:])]
    status = run_status(name, run_id, sorted(records, key=lambda r: (r["attempt"], r["time"])), fence,
                        driver=driver, now=now)  # fmt: skip
    spent = goodput_of(columns, fence)
    evaluations = [record for record in columns.of("eval") if number(record, "val_loss") is not None]
    return Watched(
        status=replace(status, goodput=spent),
        steps=steps,
        val_losses=tuple((float(record["tokens"]), number(record, "val_loss") or 0.0) for record in evaluations),
        restarts=max(0, status.attempts - 1),
        recoveries=tuple(each.recovery_seconds for each in spent.failures if each.recovery_seconds is not None),
        checkpoints=tuple(_checkpoint(record, now) for record in columns.of("checkpoint")),
        nodes=_nodes(columns),
        slowest_rank=slowest_rank_text(columns.of("rank_times")),
    )


def _records(steps: Steps) -> list[Record]:
    names = steps.dtype.names or ()
    rows = (dict(zip(names, row, strict=True)) for row in steps.tolist())
    return [{key: value for key, value in row.items() if key not in ("line", "sequence_hash")} for row in rows]


def _checkpoint(record: Record, now: float) -> Checkpoint:
    return Checkpoint(record["step"], number(record, "seconds"), max(0.0, now - float(record["time"])))


def _nodes(columns: Columns) -> tuple[tuple[str, int], ...]:
    told = [record["nodes"] for record in columns.events if record.get("event") in ("start", "rank_times")
            and record.get("nodes")]  # fmt: skip
    return tuple(sorted(Counter(map(str, told[-1])).items())) if told else ()


@dataclass(frozen=True)
class Frame:
    """The page, as wide as the terminal is."""

    run: Watched

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        run, status = self.run, self.run.status
        width = options.max_width
        inner = width - 4
        curve = line_chart(run.steps["tokens"].astype(float), run.steps["loss"], run.val_losses, inner, _CHART_HEIGHT)
        title = Text(f"{status.name} ({status.run_id}): {status.state} {status.detail}".strip(), overflow="ellipsis",
                     no_wrap=True)  # fmt: skip
        chart = Text("\n".join(curve), no_wrap=True)
        yield Panel(Group(title, _progress(run, inner)), title="run", width=width)
        yield Panel(chart, title="loss: training ⠤, held out o", width=width)
        yield Panel(_facts(run, inner), title="how it goes", width=width)


def _progress(run: Watched, width: int) -> Table:
    status = run.status
    share = status.tokens / status.total_tokens if status.total_tokens else 0.0
    total = "" if status.total_steps is None else f" of {status.total_steps:,}"
    text = f"step {status.step:,}{total}  {status.tokens:,} tokens ({share:.0%})"
    if status.seconds_left is not None:
        text += f"  {duration(status.seconds_left)} left"
    row = Table.grid(padding=(0, 2))
    row.add_row(ProgressBar(total=1.0, completed=min(1.0, share), width=max(4, width - len(text) - 2)), Text(text))
    return row


def _facts(run: Watched, width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, content in facts(run, width - 13):
        table.add_row(label, content)
    return table


def facts(run: Watched, width: int) -> list[tuple[str, Text]]:
    """The lines below the curve: a label and what it says, `width` wide."""
    status = run.status
    found = [
        ("loss", Text(_losses(status))),
        ("tokens/s", _speed(run, width)),
        ("goodput", _goodput(run, width)),
        ("restarts", Text(_restarts(run))),
        ("checkpoints", Text(_checkpoints(run.checkpoints))),
        ("nodes", Text(", ".join(f"{node} ({ranks})" for node, ranks in run.nodes) or "not told")),
    ]
    if run.slowest_rank:
        found.append(("slowest", Text(run.slowest_rank)))
    troubles = [
        f"attempt {failure.attempt} after step {failure.step:,}: {failure.reason}"
        for failure in status.goodput.failures[-_MOST_TROUBLES:]
    ]
    return [*found, *(("failure", Text(_printable(text), style="red")) for text in troubles)]


def _losses(status: RunStatus) -> str:
    losses = {"train": status.loss, "held out": status.val_loss}
    return ", ".join(f"{loss:.4f} {which}" for which, loss in losses.items() if loss is not None) or "none yet"


def _speed(run: Watched, width: int) -> Text:
    speed = run.status.tokens_per_second
    if speed is None:
        return Text("none yet")
    number_text = f"{speed:,.0f} "
    return Text(number_text + sparkline(run.steps["tokens_per_second"], max(4, width - len(number_text) - 2)))


def _goodput(run: Watched, width: int) -> Text:
    spent = run.status.goodput
    if spent.ratio is None:
        return Text("none yet")
    text = Text(f"{spent.ratio:.1%} of {duration(spent.wall_seconds)}\n")
    cells = _shares(dict(spent.microseconds), width)
    for kind, count in cells.items():
        text.append("█" * count, style=_COLOURS[kind])
    told = [(kind, amount / spent.wall_microseconds) for kind, amount in spent.microseconds.items() if amount]
    text.append("\n")
    for index, (kind, share) in enumerate(told):
        text.append(", " if index else "")
        text.append(f"{kind} {share:.1%}", style=_COLOURS[kind])
    return text


def _shares(amounts: dict[str, int], width: int) -> dict[str, int]:
    """Cells for each amount, `width` in all: borders between them are rounded."""
    whole = sum(amounts.values())
    borders = np.rint(np.cumsum(list(amounts.values())) / whole * width).astype(int)
    return dict(zip(amounts, np.diff(borders, prepend=0).tolist(), strict=True))


def _restarts(run: Watched) -> str:
    if not run.restarts:
        return "none"
    spent = run.status.goodput
    parts = [f"{run.restarts}", f"{len(spent.failures)} failures", f"{spent.replayed_steps} steps run again"]
    if run.recoveries:
        parts.append(f"the last recovered in {run.recoveries[-1]:.1f} s")
    return ", ".join(parts)


def _checkpoints(found: Sequence[Checkpoint]) -> str:
    if not found:
        return "none yet"
    newest = found[-1]
    took = "" if newest.seconds is None else f", written in {newest.seconds:.1f} s"
    return f"{len(found)}; newest of step {newest.step:,}, {duration(newest.age_seconds)} ago{took}"


def _printable(text: Any) -> str:
    return "".join(character if character.isprintable() else " " for character in str(text))
