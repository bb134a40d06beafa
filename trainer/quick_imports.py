"""A start that imports many modules, in less time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """For a block of imports: nearly all that they make stays, and the collector would look through it many times.

    It does not look there later either, so that forks share these pages.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
