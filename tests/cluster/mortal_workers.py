"""Workers of units that end their process, as a fault in a native library would; Ray tasks import them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from cluster.unit_runner import run_units_on_ray
from data_shards import isolation
from data_shards.units import Unit
from data_shards.worker import UnitResult, UnitWorker
from tests.data_shards.mortal_encoder import KILLS


@dataclass(frozen=True)
class MortalWorker(UnitWorker):
    """Encodes with `MortalEncoder`, and notes in `log` each unit that it begins."""

    log: str = ""

    def __call__(self, unit: Unit) -> UnitResult:
        """Do the unit, and die of the first marker in it unless careful."""
        with Path(self.log).open("a") as file:
            file.write(f"{unit.shard} {'careful' if self.careful else 'plain'}\n")
        if not self.careful and KILLS in text_of(unit):
            os.kill(os.getpid(), signal.SIGKILL)
        isolation.try_texts = partial(  # type: ignore[assignment]  the process is this worker's alone
            isolation.try_texts, loader="tests.data_shards.mortal_encoder:MortalEncoder"
        )
        return super().__call__(unit)


@dataclass(frozen=True)
class DyingOnceWorker(MortalWorker):
    """Dies the first time that it begins a unit with an odd number."""

    def __call__(self, unit: Unit) -> UnitResult:
        """Die, or do the unit."""
        first_time = Path(self.log).with_name(f"unit-{unit.shard}")
        if unit.shard % 2 and not first_time.exists():
            first_time.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(unit)


@dataclass(frozen=True)
class DoomedWorker(MortalWorker):
    """Dies of the second unit, whatever it does."""

    def __call__(self, unit: Unit) -> UnitResult:
        """Die, or do the unit."""
        if unit.shard == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(unit)


@dataclass(frozen=True)
class FullDiskWorker(MortalWorker):
    """Finds no room for the second unit."""

    def __call__(self, unit: Unit) -> UnitResult:
        """Fail, or do the unit."""
        if unit.shard == 1:
            raise OSError(28, "No space left on device", "train-00001.tar")
        return super().__call__(unit)


def text_of(unit: Unit) -> str:
    """All of the unit's files."""
    return "".join(Path(piece.file.path).read_text()[piece.start : piece.end] for piece in unit.pieces)


def on_ray(kind: type[MortalWorker], log: Path) -> Callable[[UnitWorker, Sequence[Unit]], Iterator[UnitResult]]:
    """Runs units on Ray with a worker of that kind."""

    def run_units(work: UnitWorker, units: Sequence[Unit]) -> Iterator[UnitResult]:
        given: dict[str, Any] = {field.name: getattr(work, field.name) for field in fields(UnitWorker)}
        return run_units_on_ray(kind(**given, log=str(log)), units)

    return run_units
