"""Imports DeepSpeed without what it would import for a second and a half, and what no run of ours uses.

That is MLflow, for its autotuner, and torch's compiler, for its own Muon. Whoever wants a quick start imports this
before anything that imports DeepSpeed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def missing(name: str) -> Iterator[None]:
    """In the block, imports of a module that is not imported yet fail as if it were not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # https://docs.python.org/3/reference/import.html#the-module-cache
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def uncompiled() -> Iterator[None]:
    """In the block, `torch.compile` returns what it is given, without its compiler, which it would import."""
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TORCHDYNAMO_DISABLE"]
        else:
            os.environ["TORCHDYNAMO_DISABLE"] = before


with missing("mlflow"), uncompiled():
    import deepspeed as deepspeed
    from deepspeed.runtime.zero.muon import original_muon as original_muon
