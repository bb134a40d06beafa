from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainer.errors import TrainError
from trainer.run_lock import run_lock


def test_lock_held_refuses_a_second_driver_naming_the_first(tmp_path: Path) -> None:
    with run_lock(tmp_path / "run"):
        refusal = pytest.raises(TrainError, match=rf"one driver at a time.*process {os.getpid()} on ")
        with refusal, run_lock(tmp_path / "run"):
            pass


def test_lock_released_lets_the_next_driver_in(tmp_path: Path) -> None:
    for _ in range(2):
        with run_lock(tmp_path / "run"):
            assert (tmp_path / "run").is_dir()
