"""How far a run is."""

from __future__ import annotations

from dataclasses import dataclass

from data_shards.loader import LoaderState


@dataclass(frozen=True)
class Place:
    """Optimizer steps done, tokens trained, and the loader's state after them."""

    step: int
    tokens: int
    loader: LoaderState
