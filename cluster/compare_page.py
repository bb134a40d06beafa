"""A comparison of runs as one page of HTML: its plots, tables and script within it, nothing fetched. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.charts import share_chart
from cluster.compare_script import SCRIPT
from cluster.visible import escape
from monitoring.compare import Comparison
from monitoring.compare_text import MOST_COLUMNS, rows, setting_text
from monitoring.goodput import KINDS
from monitoring.run_summary import RunSummary
from monitoring.seeds import SeedVerdict

_MOST_POINTS = 800  # of a curve: no screen shows more
_MOST_POINTS_OF_ALL = 120_000
_MOST_BARS = 60  # runs whose time is shown
_COLORS = ("4477aa", "cc6677", "228833", "aa3377", "c08a00", "2299bb", "ee7733", "777777", "882255", "66aa55")
_DARK_COLORS = ("77aadd", "ee8899", "55bb66", "dd77bb", "e0b040", "55ccdd", "ff9955", "aaaaaa", "cc6699", "99cc77")
_PARTS = ("228833", "66ccee", "4477aa", "ddaa33", "ee7733", "cc3311", "999999")  # of KINDS, in their order
_STYLE = (
    """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #ffffff; --faint: #6a7078; --rule: #d9dce0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e9; --paper: #17191c; --faint: #9aa1a9; --rule: #3a3f45; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 76rem;
  margin: 1rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0 0 .5rem; } h2 { font-size: 1.1rem; margin: 1.2rem 0 .3rem; } p { margin: .3rem 0; }
.faint { color: var(--faint); } .faint, figcaption { font-size: .9rem; } figcaption { font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem .6rem; margin: .5rem 0; max-height: 7rem; overflow-y: auto; }
.legend button { font: inherit; font-size: .9rem; color: var(--ink); background: none; border: 1px solid var(--rule);
  border-radius: 4px; padding: .1rem .5rem; cursor: pointer; overflow-wrap: anywhere; }
.legend button[aria-pressed=false] { text-decoration: line-through; opacity: .5; }
.scroll { overflow-x: auto; max-height: 40rem; overflow-y: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: .8rem 1.2rem; }
figure { margin: 0; } canvas { width: 100%; height: 225px; display: block; touch-action: pan-y; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: 1.1rem; display: block; } .bar { min-width: 20rem; width: 60%; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px; }
#tip { position: fixed; background: var(--paper); color: var(--ink); border: 1px solid var(--rule);
  padding: .2rem .5rem; border-radius: 4px; pointer-events: none;
  font-size: 13px; max-width: 90vw; overflow-wrap: anywhere; }
#tip[hidden] { display: none; }
:root { """
    + " ".join(f"--c{index}: #{colour};" for index, colour in enumerate(_COLORS))
    + " }\n@media (prefers-color-scheme: dark) { :root { "
    + " ".join(f"--c{index}: #{colour};" for index, colour in enumerate(_DARK_COLORS))
    + " } }\n"
    + "\n".join(f".part{k} {{ fill: #{colour}; background: #{colour}; }}" for k, colour in enumerate(_PARTS))
    + "\n"
)


def compare_page(comparison: Comparison) -> str:
    """The page of `headrace compare --html`. Names and settings are escaped."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    count = len(comparison.runs)
    sections = [
        f"<h1>{count} {'run' if count == 1 else 'runs'} compared</h1>",
        _verdict_section(comparison.seeds),
        _plot_section(comparison.runs),
        _table_section(comparison),
        _settings_section(comparison),
        _time_section(comparison.runs),
    ]
    # As JSON within a script element: no "<" may end it.
    data = json.dumps(_curves(comparison.runs), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Runs compared</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + f'\n<div id="tip" hidden></div>\n<script id="curves" type="application/json">{data}</script>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


_PLOTS = {
    "train_tokens": "Training loss over tokens",
    "val_tokens": "Validation loss over tokens",
    "val_hours": "Validation loss over hours",
    "train_hours": "Training loss over hours",
    "speed": "Tokens per second over tokens",
}


def _plot_section(runs: Sequence[RunSummary]) -> str:
    figures = [
        f'<figure><figcaption>{title}</figcaption><canvas data-plot="{name}" role="img" aria-label="{title}"></canvas>'
        "</figure>"
        for name, title in _PLOTS.items()
    ]
    about = (
        "Losses in nats per token, hours of each run's own wall time; long curves are means of neighbouring steps. "
        "Point at a curve for its values; click a run to hide its curves."
    )
    plots = "\n".join(figures)
    return f'<h2>Curves</h2>\n<p class="faint">{about}</p>\n{_legend(runs)}\n<div class="plots">{plots}</div>'


def _legend(runs: Sequence[RunSummary]) -> str:
    """Which colour is which run's: buttons that show and hide its curves."""
    buttons = [
        f'<button type="button" data-toggle="{index}" aria-pressed="true">{_run_cell(index, run.name)}</button>'
        for index, run in enumerate(runs)
    ]
    return '<div class="legend" role="group" aria-label="runs shown">' + "".join(buttons) + "</div>"


def _curves(runs: Sequence[RunSummary]) -> dict[str, Any]:
    most = max(20, min(_MOST_POINTS, _MOST_POINTS_OF_ALL // max(1, len(runs))))
    plots: dict[str, Any] = {
        name: {"x": "hours" if name.endswith("hours") else "tokens", "curves": []} for name in _PLOTS
    }
    for index, run in enumerate(runs):
        tokens, loss = run.counted["tokens"], run.counted["loss"]
        val_losses = np.array([loss for _, _, loss in run.val_losses])
        found = {
            "train_tokens": thinned(tokens, loss, most),
            "train_hours": thinned(run.hours, loss, most),
            "speed": thinned(tokens, run.counted["tokens_per_second"], most),
            "val_tokens": thinned(np.array([x for x, _, _ in run.val_losses]), val_losses, len(val_losses)),
            "val_hours": thinned(np.array([x for _, x, _ in run.val_losses]), val_losses, len(val_losses)),
        }
        for name, (x, y) in found.items():
            plots[name]["curves"].append({"run": index, "x": x, "y": y})
    return {"names": [run.name for run in runs], "plots": plots}


def thinned(x: NDArray[Any], y: NDArray[Any], most: int) -> tuple[list[float], list[float | None]]:
    """At most `most` points: means over neighbouring ones. None where a value is not finite."""
    if len(x) > most:
        starts = np.linspace(0, len(x), most, endpoint=False).astype(np.int64)
        sizes = np.diff([*starts.tolist(), len(x)])
        x, y = np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes
    ys = [value if math.isfinite(value) else None for value in _six_digits(y).tolist()]
    return _six_digits(x).tolist(), ys


def _six_digits(values: NDArray[Any]) -> NDArray[np.float64]:
    """The values to six significant digits, which a page has no use for more of."""
    sizes = np.abs(values.astype(np.float64))
    is_plain = np.isfinite(sizes) & (sizes > 0)
    powers = 5 - np.floor(np.log10(np.where(is_plain, sizes, 1.0)))
    up, down = 10.0 ** np.maximum(powers, 0), 10.0 ** np.maximum(-powers, 0)  # powers of ten that are exact
    return np.where(is_plain, np.rint(values / down * up) / up * down, values)


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Cells are markup already."""
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>'


def _run_cell(index: int, name: str) -> str:
    return f'<span class="key" data-run="{index}"></span>{escape(name)}'


def _table_section(comparison: Comparison) -> str:
    return "<h2>Numbers</h2>\n" + _run_table(comparison.runs, rows(comparison))


def _run_table(runs: Sequence[RunSummary], told: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A column for each run, or where they are many a row for each."""
    heads = [_run_cell(index, run.name) for index, run in enumerate(runs)]
    if len(runs) <= MOST_COLUMNS:
        return _table(["", *heads], [[escape(label), *map(escape, cells)] for label, cells in told])
    body = [[head, *(escape(cells[index]) for _, cells in told)] for index, head in enumerate(heads)]
    return _table(["run", *(escape(label) for label, _ in told)], body)


def _settings_section(comparison: Comparison) -> str:
    if not comparison.settings:
        return "<h2>Settings</h2>\n<p>All settings are the same.</p>"
    told = [(key, [setting_text(value) for value in values]) for key, values in comparison.settings.items()]
    return "<h2>Settings that differ</h2>\n" + _run_table(comparison.runs, told)


def _verdict_section(seeds: SeedVerdict) -> str:
    body = [
        [
            escape(group.label),
            str(len(group.runs)),
            escape(", ".join(map(str, group.seeds)) or "-"),
            "-" if group.mean is None else f"{group.mean:.4f}",
            "-" if group.deviation is None else f"{group.deviation:.4f}",
        ]
        for group in seeds.groups[:_MOST_BARS]
    ]
    head = ["settings", "runs", "seeds", "mean validation loss at equal tokens", "deviation of seeds"]
    return f"<h2>Verdict</h2>\n<p>{escape(seeds.text)}.</p>\n" + _table(head, body)


def _time_section(runs: Sequence[RunSummary]) -> str:
    known = [(index, run) for index, run in enumerate(runs) if sum(run.spent_seconds.values()) > 0]
    keys = " ".join(f'<span class="key part{k}"></span>{escape(kind)}' for k, kind in enumerate(KINDS))
    body = []
    for index, run in known[:_MOST_BARS]:
        whole = sum(run.spent_seconds.values())
        shares = [(kind, run.spent_seconds[kind] / whole) for kind in KINDS]
        chart = share_chart(shares, f"where the time of {run.name} went")
        body.append([_run_cell(index, run.name), f'<div class="bar">{chart}</div>'])
    more = f'<p class="faint">The first {_MOST_BARS} of {len(known)} runs.</p>' if len(known) > _MOST_BARS else ""
    return f"<h2>Where the time went</h2>\n<p>{keys}</p>\n{more}" + _table(["run", ""], body) if body else ""
