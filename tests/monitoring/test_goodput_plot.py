"""The picture of where the time went."""

from __future__ import annotations

from pathlib import Path

from monitoring.goodput import goodput
from monitoring.goodput_plot import save_goodput_plot
from tests.monitoring.journals import end, start, step

_PNG = b"\x89PNG\r\n\x1a\n"


def test_save_goodput_plot_draws_the_kinds(tmp_path: Path) -> None:
    calm = [start(), *[step(i) for i in range(1, 9)], end(8)]
    rough = [*calm[:-1], start(2, 4), step(5, 2)]
    pictures = [
        save_goodput_plot(goodput(records), tmp_path / name) for name, records in (("a.png", calm), ("b.png", rough))
    ]
    assert all(path.read_bytes().startswith(_PNG) for path in pictures)
    assert pictures[0].read_bytes() != pictures[1].read_bytes()


def test_save_goodput_plot_of_no_time_is_an_empty_picture(tmp_path: Path) -> None:
    assert save_goodput_plot(goodput([]), tmp_path / "goodput.png").read_bytes().startswith(_PNG)
