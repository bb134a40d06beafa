"""The loss plot."""

from __future__ import annotations

from pathlib import Path

from monitoring.plot import restart_tokens, save_loss_plot
from tests.monitoring.journals import TOKENS_PER_STEP, evaluation, start, step

_PNG = b"\x89PNG\r\n\x1a\n"


def test_save_loss_plot_restarted_run_with_nan_is_drawn(tmp_path: Path) -> None:
    records = [start(), *[step(i) for i in range(1, 9)], step(9, loss=None, loss_hex="nan"), evaluation(5, 6.0)]
    records += [start(2, 7), step(8, 2), step(9, 2)]
    path = save_loss_plot(records, tmp_path / "loss.png")
    plain = save_loss_plot(records[:9], tmp_path / "plain.png")
    assert path.read_bytes().startswith(_PNG)
    assert path.read_bytes() != plain.read_bytes()


def test_save_loss_plot_no_step_is_an_empty_picture(tmp_path: Path) -> None:
    assert save_loss_plot([start()], tmp_path / "loss.png").read_bytes().startswith(_PNG)


def test_restart_tokens_are_those_of_each_later_attempts_first_step() -> None:
    records = [start(), step(1), step(2), start(2, 1), step(2, 2), step(3, 2), step(3, 4)]
    assert restart_tokens(records) == [2 * TOKENS_PER_STEP, 3 * TOKENS_PER_STEP]
    assert restart_tokens([step(1)]) == []
