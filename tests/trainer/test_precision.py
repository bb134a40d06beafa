from __future__ import annotations

import pytest

from trainer.errors import TrainError
from trainer.precision import resolve_precision


@pytest.mark.parametrize(
    ("asked", "device", "has_bf16", "precision"),
    [
        ("auto", "cpu", True, "fp32"),
        ("auto", "cuda", True, "bf16"),
        ("auto", "cuda", False, "fp32"),
        ("bf16", "cpu", False, "bf16"),
        ("fp16", "cuda", False, "fp16"),
    ],
)
def test_precision_that_the_device_has_is_taken(asked: str, device: str, has_bf16: bool, precision: str) -> None:
    assert resolve_precision(asked, device, has_bf16) == precision


@pytest.mark.parametrize(("asked", "device"), [("fp16", "cpu"), ("bf16", "cuda")])
def test_precision_that_the_device_lacks_is_refused(asked: str, device: str) -> None:
    with pytest.raises(TrainError, match=rf"train\.precision: {asked} needs a GPU"):
        resolve_precision(asked, device, has_bf16=False)
