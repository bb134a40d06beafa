from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import cluster.session
from cluster.session import LazySession, prepare_lazily
from cluster.settings import ClusterSettings, Resources
from data_shards.errors import DataError
from data_shards.prepare import run_units_serially
from data_shards.units import Unit
from data_shards.worker import UnitResult, UnitWorker
from tests.data_shards.corpora import times_of_change
from tests.end_to_end.headrace import run_file
from trainer.config import RunConfig, load_run_file

RESOURCES = Resources(workers=1, min_workers=1, cpus_per_worker=1, gpus_per_worker=0, threads=1)


class FakeRay:
    """Stands for Ray: notes what becomes of it."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @contextmanager
    def session(self, *settings: object) -> Iterator[Resources]:
        """In the place of `cluster.session.session`."""
        self.events.append("start")
        try:
            yield RESOURCES
        finally:
            self.events.append("end")

    def run_units(self, work: UnitWorker, units: Sequence[Unit]) -> Iterator[UnitResult]:
        """In the place of `cluster.unit_runner.run_units_on_ray`."""
        self.events.append(f"run {len(units)}")
        return run_units_serially(work, units)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(cluster.session, "session", fake.session)
    monkeypatch.setattr(cluster.session, "run_units_on_ray", fake.run_units)
    return fake


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load_run_file(run_file(tmp_path, "x"), [])


def lazy_session(config: RunConfig) -> LazySession:
    return LazySession(config, ClusterSettings(), None)


def test_session_that_nothing_needs_is_never_started(ray: FakeRay, config: RunConfig) -> None:
    with lazy_session(config):
        pass
    assert ray.events == []


def test_session_starts_once_and_ends_with_the_block_whatever_ends_it(ray: FakeRay, config: RunConfig) -> None:
    with pytest.raises(DataError), lazy_session(config) as lazy:
        assert lazy.resources() == lazy.resources() == RESOURCES
        assert ray.events == ["start"]
        raise DataError("wrong")
    assert ray.events == ["start", "end"]


def test_prepare_starts_ray_for_its_units_and_again_starts_nothing(ray: FakeRay, config: RunConfig) -> None:
    with lazy_session(config) as lazy:
        first = prepare_lazily(config, lazy)
    assert not first.was_current
    assert ray.events == ["start", "run 6", "end"]
    assert isinstance(config.data_dir, Path)
    before = times_of_change(config.data_dir)
    with lazy_session(config) as lazy:
        second = prepare_lazily(config, lazy)
    assert second.was_current
    assert second.dataset == first.dataset
    assert ray.events == ["start", "run 6", "end"]
    assert times_of_change(config.data_dir) == before
