from __future__ import annotations

import os

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """These tensors are tiny: with two threads, waiting for each other would be most of the time."""
    torch.set_num_threads(1)
