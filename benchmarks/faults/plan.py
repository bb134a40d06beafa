"""How large a run of the fault benchmark is, and where it works."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.arms import Runner
from benchmarks.faults.dataset import demo_dataset, export_arrays
from benchmarks.faults.jobs import Place


@dataclass(frozen=True)
class Plan:
    """Sizes and places. Kills fall at moments drawn from `seed`.

    recovery_kills: of each repetition of each arm, saves every recovery_save_every steps; lost_kills: of the one run of
    each arm, whose gaps reach over the interval between saves; storm: the trace of failures.
    """

    work: Path
    peers_python: str
    seed: int
    repetitions: int = 5
    recovery_kills: int = 4
    recovery_save_every: int = 10
    recovery_gap: tuple[int, int] = (3, 12)
    lost_kills: int = 20
    lost_save_every: int = 50
    lost_gap: tuple[int, int] = (10, 60)
    storm_seconds: float = 600.0
    storm_mean_seconds: float = 30.0
    storm_save_every: int = 10
    storm_lead_steps: int = 30
    snapshot_steps: int = 60
    collective_seconds: float = 10.0
    deadline_seconds: float = 240.0

    def runner(self, save_every: int) -> Runner:
        """Starts the arms."""
        return Runner(self.peers_python, save_every, self.collective_seconds)

    @contextmanager
    def place(self, arm: str) -> Iterator[Place]:
        """An empty folder for a run, with a dataset of its own; all of it goes afterwards."""
        folder = self.work / "fault-run"
        shutil.rmtree(folder, ignore_errors=True)
        place = Place(
            folder / f"{arm.split()[0].lower()}-run", folder / "data", folder / "arrays", self.work / "mlflow.db"
        )
        place.out.mkdir(parents=True)
        dataset = demo_dataset(self.work)
        shutil.copytree(dataset, place.dataset)
        export_arrays(dataset, place.arrays)
        try:
            yield place
        finally:
            shutil.rmtree(folder)


def full(work: Path, peers_python: str, seed: int) -> Plan:
    """What the published figures come from."""
    return Plan(work, peers_python, seed)


def quick(work: Path, peers_python: str, seed: int) -> Plan:
    """The same with few kills and a short trace: rough."""
    return Plan(
        work,
        peers_python,
        seed,
        repetitions=1,
        recovery_kills=1,
        lost_kills=2,
        lost_save_every=10,
        lost_gap=(3, 12),
        storm_seconds=60.0,
        storm_mean_seconds=15.0,
        storm_lead_steps=10,
        snapshot_steps=10,
        collective_seconds=60.0,
    )
