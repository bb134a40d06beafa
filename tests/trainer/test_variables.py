from __future__ import annotations

import os

import pytest

from trainer.variables import variable


@pytest.mark.parametrize("before", [None, "0"])
def test_variable_after_its_block_is_as_it_was(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    if before is not None:
        monkeypatch.setenv("TORCHDYNAMO_DISABLE", before)
    with variable("TORCHDYNAMO_DISABLE", "1"):
        assert os.environ["TORCHDYNAMO_DISABLE"] == "1"
    assert os.environ.get("TORCHDYNAMO_DISABLE") == before
