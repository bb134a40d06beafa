"""A classifier's confusion matrix on held-out texts, as a picture and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from monitoring.journal import Record

_MOST_NUMBERED = 25  # classes: in a larger matrix a number is wider than its square


def newest_confusion(records: Iterable[Record]) -> Record | None:
    """The newest evaluation that tells a confusion matrix; None if none does."""
    found = [record for record in records if record.get("event") == "eval" and "confusion" in record]
    return found[-1] if found else None


def save_confusion(record: Record, folder: Path) -> tuple[Path, Path]:
    """Write confusion.png and confusion.json of an evaluation that tells its confusion matrix; their paths.

    The picture's colours are shares of each true class, its numbers are texts; the JSON is {"step", "classes",
    "confusion": [true][predicted], "accuracy", "macro_f1"}.
    """
    picture, data = folder / "confusion.png", folder / "confusion.json"
    facts = {
        "step": record["step"],
        "classes": record["classes"],
        "confusion": record["confusion"],
        "accuracy": record.get("val_accuracy"),
        "macro_f1": record.get("val_macro_f1"),
    }
    data.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _draw(record, picture)
    return picture, data


def _draw(record: Record, path: Path) -> None:
    classes, rows = record["classes"], record["confusion"]
    side = min(2.5 + 0.55 * len(classes), 14.0)
    figure = Figure(figsize=(side + 1, side), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = [[number / max(sum(row), 1) for number in row] for row in rows]
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if len(classes) <= _MOST_NUMBERED:
        _number(axes, rows, shares)
    labels = _drawable(classes)
    axes.set_xticks(range(len(classes)), labels, rotation=90 if len(classes) > 4 else 0)
    axes.set_yticks(range(len(classes)), labels)
    axes.set(xlabel="predicted class", ylabel="true class", title=f"held-out texts at step {record['step']:,}")
    figure.savefig(path)


def _drawable(classes: list[str]) -> list[str]:
    """The classes' names, or numbers where the font lacks a character; the JSON beside the picture has the names."""
    font = get_font(findfont(FontProperties()))
    return [
        name if all(font.get_char_index(ord(character)) for character in name) else f"class {number}"
        for number, name in enumerate(classes)
    ]


def _number(axes: Axes, rows: list[list[int]], shares: list[list[float]]) -> None:
    for y, row in enumerate(rows):
        for x, number in enumerate(row):
            color = "white" if shares[y][x] > 0.5 else "black"
            axes.text(x, y, f"{number:,}", ha="center", va="center", color=color, fontsize=8)
