"""Imports DeepSpeed without what it would import for a second and a half, and what no run of ours uses.

That is MLflow, for its autotuner, and torch's compiler, for its own Muon. Whoever wants a quick start imports this
before anything that imports DeepSpeed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.variables import variable


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


# Without its compiler, which it would import, `torch.compile` returns what it is given.
with missing("mlflow"), variable("TORCHDYNAMO_DISABLE", "1"):
    import deepspeed as deepspeed
    from deepspeed.runtime.zero.muon import original_muon as original_muon
