"""A comparison of runs as a table: a column for each run, or where they are many a row for each."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from monitoring.compare import Comparison, PairCheck
from monitoring.units import duration, short

MOST_COLUMNS = 6
_WIDTH_WITHOUT_KEYS = 95  # of the table with a row for each run


def to_table(comparison: Comparison, width: int = 120) -> str:
    """The comparison as plain text of at most `width` columns; a missing value is "-"."""
    is_narrow = len(comparison.runs) <= MOST_COLUMNS
    table = _runs_in_columns(comparison) if is_narrow else _runs_in_rows(comparison, width)
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=False, no_color=True, markup=False).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    verdict = textwrap.wrap(f"seeds: {comparison.seeds.text}", width)
    if not is_narrow:
        lines += ["", *_row_legend(comparison), *_other_settings(comparison, width)]
    lines += ["", *verdict]
    return "\n".join(lines).strip("\n") + "\n"


def _runs_in_columns(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for run in comparison.runs:
        table.add_column(run.name, justify="right", overflow="fold")
    for label, cells in rows(comparison):
        table.add_row(label, *cells)
    if comparison.settings:
        table.add_section()
    for key, values in comparison.settings.items():
        table.add_row(key, *map(setting_text, values))
    return table


def _runs_in_rows(comparison: Comparison, width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    keys = _told_keys(comparison, width)
    for label in ("tokens", "val at T", "val at H", "last", "best", "tokens/s", "util", "goodput", "data", *keys):
        table.add_column(label, justify="right", overflow="fold")
    for index, run in enumerate(comparison.runs):
        table.add_row(
            run.name,
            short(run.tokens),
            _number(comparison.val_loss_at_equal_tokens[index]),
            _number(comparison.val_loss_at_equal_hours[index]),
            _number(run.last_val_loss),
            _number(run.best_val_loss),
            _number(run.tokens_per_second, ",.0f"),
            _number(run.utilisation, ".1%"),
            _number(run.goodput, ".1%"),
            _data(comparison.pairs[index - 1]) if index else "first",
            *(setting_text(comparison.settings[key][index]) for key in keys),
        )
    return table


def _row_legend(comparison: Comparison) -> list[str]:
    """What the columns' short names mean."""
    tokens, hours = _equal_texts(comparison)
    return [
        f"val: validation loss, T = {tokens} tokens, H = {hours} hours of a run's wall time; last and best likewise.",
        "data: the same sequences as the first run's at each step that both have, or the first step that has others.",
        "",
    ]


def _data(pair: PairCheck) -> str:
    if not pair.common_steps:
        return "-"
    return "same" if pair.first_step_of_other_data is None else f"to {pair.first_step_of_other_data:,}"


def _told_keys(comparison: Comparison, width: int) -> Sequence[str]:
    """The settings that get a column of their own: all that differ, or none."""
    keys = [key for key in comparison.settings if key not in ("name", "out_dir", "data.dir")]
    return keys if sum(max(6, len(key)) + 1 for key in keys) <= width - _WIDTH_WITHOUT_KEYS else []


def _other_settings(comparison: Comparison, width: int) -> list[str]:
    """The settings that differ and have no column, each with the values that there are."""
    if not comparison.settings or _told_keys(comparison, width):
        return []
    lines = ["settings that differ:"]
    for key, values in comparison.settings.items():
        kinds = list(dict.fromkeys(map(setting_text, values)))
        shown = ", ".join(kinds[:8]) + (f" and {len(kinds) - 8} more" if len(kinds) > 8 else "")
        lines.append("  " + textwrap.shorten(f"{key}: {shown}", width - 2, placeholder=" …"))
    return lines


def _equal_texts(comparison: Comparison) -> tuple[str, str]:
    tokens = "-" if comparison.equal_tokens is None else f"{comparison.equal_tokens:,}"
    return tokens, "-" if comparison.equal_hours is None else f"{comparison.equal_hours:.3g}"


def rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """What is told of each run: a label, and a cell for each."""
    runs = comparison.runs
    tokens, hours = _equal_texts(comparison)
    found = [
        ("status", [run.status for run in runs]),
        ("steps", [f"{run.steps:,}" for run in runs]),
        ("tokens", [f"{run.tokens:,}" for run in runs]),
        ("train loss, last", [_number(run.last_loss) for run in runs]),
        ("train loss, mean of last 10", [_number(run.mean_last_10_loss) for run in runs]),
        ("train loss, best", [_number(run.best_loss) for run in runs]),
        (f"val loss at {tokens} tokens", [_number(loss) for loss in comparison.val_loss_at_equal_tokens]),
        (f"val loss at {hours} hours", [_number(loss) for loss in comparison.val_loss_at_equal_hours]),
        ("val loss, last", [_number(run.last_val_loss) for run in runs]),
        ("val loss, best", [_number(run.best_val_loss) for run in runs]),
        ("unigram loss", [_number(run.unigram_loss) for run in runs]),
        ("tokens/s, median", [_number(run.tokens_per_second, ",.0f") for run in runs]),
        ("utilisation", [_number(run.utilisation, ".1%") for run in runs]),
        ("wall time", [duration(run.wall_seconds) for run in runs]),
        ("goodput", [_number(run.goodput, ".1%") for run in runs]),
        ("workers", [" -> ".join(map(str, run.world_sizes)) or "-" for run in runs]),
        ("restarts", [str(run.restarts) for run in runs]),
    ]
    if comparison.pairs:
        names = {"same data as first": "first_step_of_other_data", "same loss, bit for bit": "first_step_of_other_loss"}
        found += [(label, ["", *(_agreement(pair, key) for pair in comparison.pairs)]) for label, key in names.items()]
    return found


def setting_text(value: Any) -> str:
    """A setting as people read it; "-" for none."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _agreement(pair: PairCheck, key: str) -> str:
    if not pair.common_steps:
        return "-"
    step = getattr(pair, key)
    return f"yes ({pair.common_steps:,} steps)" if step is None else f"until step {step:,}"


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)
