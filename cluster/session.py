"""What comes before training: checks of the run file, Ray when something first needs it, the corpus prepared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.prepare_view import PrepareView
from cluster.ray_session import check_address, cluster_total, ray_session
from cluster.settings import ClusterSettings, Resources, check_fits, parse_cluster, resolve_resources
from cluster.shared_folder import check_shared
from cluster.unit_runner import run_units_on_ray
from data_shards.dataset import Dataset
from data_shards.prepare import prepare
from data_shards.sources import expand
from data_shards.units import Unit
from data_shards.worker import UnitResult, UnitWorker
from trainer.compiler import check_compiler
from trainer.config import RunConfig
from trainer.launch import check_before_start
from trainer.precision import resolve_precision


def check_static(config: RunConfig, where: str, address: str | None) -> ClusterSettings:
    """Refuse what can be known to be impossible before Ray is started.

    Raises:
        ClusterError, TrainError, DataError, ModelError: naming the field, the rule and the value found.
    """
    settings = parse_cluster(config.cluster, where)
    if address is not None:
        check_address(address)
    for world_size in settings.worlds:
        check_before_start(config, world_size)
    for source in (*config.data.sources, *(config.data.val_sources or ())):
        expand(source)
    if address is None and (settings.gpus_per_worker == 0 or not any(Path("/dev").glob("nvidia[0-9]*"))):
        resolve_precision(config.train.precision, "cpu", has_bf16=True)
        if config.train.compile:
            check_compiler("cpu")
    return settings


@contextmanager
def session(config: RunConfig, settings: ClusterSettings, address: str | None) -> Iterator[Resources]:
    """Ray joined or started, with what the gang will ask of it."""
    wanted = resolve_resources(settings, gpus=0, cores=None)
    local_cpus = max(os.cpu_count() or 1, wanted.workers * wanted.cpus_per_worker)
    with ray_session(address, local_cpus):
        resources = resolve_resources(settings, cluster_total("GPU"), os.cpu_count() if address is None else None)
        device = "cuda" if resources.gpus_per_worker else "cpu"
        resolve_precision(config.train.precision, device, has_bf16=True)
        check_fits(resources, cluster_total("CPU"), cluster_total("GPU"))
        for world_size in range(resources.min_workers, resources.workers + 1):
            check_before_start(config, world_size)
        check_shared([Path(config.out_dir), config.data_dir, config.checkpoint_dir])
        yield resources


class LazySession:
    """A session that is started when something first needs Ray, and ends with the block.

    It starts in the caller's thread: Ray's own processes end with the thread that started them.
    """

    def __init__(self, config: RunConfig, settings: ClusterSettings, address: str | None) -> None:
        self._start = partial(session, config, settings, address)
        self._stack = ExitStack()
        self._resources: Resources | None = None

    def __enter__(self) -> LazySession:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def resources(self) -> Resources:
        """What the gang will ask of Ray, which is joined or started by now."""
        if self._resources is None:
            self._resources = self._stack.enter_context(self._start())
        return self._resources

    def run_units(self, work: UnitWorker, units: Sequence[Unit]) -> Iterator[UnitResult]:
        """Units of a corpus as tasks on Ray."""
        self.resources()
        return run_units_on_ray(work, units)


@dataclass(frozen=True)
class Prepared:
    """A dataset that is as the run file asks, and whether it was so before."""

    dataset: Dataset
    was_current: bool


def prepare_lazily(config: RunConfig, lazy: LazySession) -> Prepared:
    """Tokenise and shard; starts nothing and writes nothing where nothing is to be done."""
    with PrepareView() as view:
        dataset = prepare(
            config.data,
            dir=config.data_dir,
            min_val_tokens=config.seq_len + 1,
            run_units=lazy.run_units,
            progress=view.show,
        )
    return Prepared(dataset, was_current=not view.has_worked)
