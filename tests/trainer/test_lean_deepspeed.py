from __future__ import annotations

import importlib
import os
import sys

import pytest

from trainer.lean_deepspeed import missing


def test_missing_module_cannot_be_imported_in_the_block_and_can_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with missing("colorsys"), pytest.raises(ImportError):
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys").rgb_to_hsv(0.0, 0.0, 0.0) == (0.0, 0.0, 0.0)


def test_missing_module_that_was_imported_before_stays() -> None:
    with missing("os"):
        assert importlib.import_module("os") is os
    assert sys.modules["os"] is os
