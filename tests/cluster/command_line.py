"""`headrace` within the test's own process."""

from __future__ import annotations

import pytest

from cluster.cli import main


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command that succeeds prints."""
    status, shown = main([str(word) for word in words]), capsys.readouterr()
    assert status == 0, shown.err
    return shown.out


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command says of wrong input."""
    status, shown = main([str(word) for word in words]), capsys.readouterr()
    assert status == 2, shown.err
    return shown.err
