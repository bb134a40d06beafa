"""The driver of a run: prepare, train under a gang, evaluate and export; the thread that shows how it goes."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from cluster.gang import make_gang_spec, run_gang
from cluster.gang_journal import append_event
from cluster.prepare_view import PrepareView
from cluster.ray_session import cluster_gpus, ray_session
from cluster.settings import ClusterSettings, Resources, parse_cluster, resolve_resources
from cluster.shared_folder import check_shared
from cluster.unit_runner import Work, run_units_on_ray
from data_shards.dataset import Dataset
from data_shards.prepare import RunUnits, prepare
from data_shards.sources import expand
from data_shards.units import Unit
from data_shards.worker import UnitResult
from monitoring.journal import JournalReader, last_values, read_records
from monitoring.progress import ProgressView
from monitoring.sender import finish_sender, start_sender
from trainer.attempts import newest_attempt
from trainer.config import RunConfig
from trainer.errors import TrainError
from trainer.launch import Launch, check_before_start, finished_step, open_launch
from trainer.precision import resolve_precision
from trainer.provenance import provenance_tags
from trainer.stop import stop_mark

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25


class RunFailedError(Exception):
    """The run ended without finishing; the message is the diagnosis."""


@dataclass(frozen=True)
class DriveResult:
    """How a run ended: `finished`, `already finished` or `stopped`."""

    status: str
    launch: Launch


def check_static(config: RunConfig, where: str, address: str | None) -> ClusterSettings:
    """Refuse what can be known to be impossible before Ray is started.

    Raises:
        TrainError, DataError, ModelError: naming the field, the rule and the value found.
    """
    settings = parse_cluster(config.cluster, where)
    world_size = settings.workers if isinstance(settings.workers, int) else 1
    check_before_start(config, world_size)
    for source in (*config.data.sources, *(config.data.val_sources or ())):
        expand(source)
    if address is None and settings.gpus_per_worker == 0:
        resolve_precision(config.train.precision, "cpu", has_bf16=True)
    return settings


@contextmanager
def session(config: RunConfig, settings: ClusterSettings, address: str | None) -> Iterator[Resources]:
    """Ray joined or started, with what the gang will ask of it."""
    wanted = resolve_resources(settings, gpus=0, cores=None)
    local_cpus = max(os.cpu_count() or 1, wanted.workers * wanted.cpus_per_worker)
    with ray_session(address, local_cpus):
        resources = resolve_resources(settings, cluster_gpus(), os.cpu_count() if address is None else None)
        device = "cuda" if resources.gpus_per_worker else "cpu"
        resolve_precision(config.train.precision, device, has_bf16=True)
        check_before_start(config, resources.workers)
        check_shared([Path(config.out_dir), config.data_dir])
        yield resources


def prepare_on_ray(config: RunConfig, run_units: RunUnits = run_units_on_ray) -> Dataset:
    """Tokenise and shard on the cluster that this process has joined; does nothing where nothing is to be done."""
    with PrepareView() as view:
        return prepare(
            config.data,
            dir=config.data_dir,
            min_val_tokens=config.seq_len + 1,
            run_units=run_units,
            progress=view.show,
        )


def prepare_alone(config: RunConfig, settings: ClusterSettings, address: str | None) -> Dataset:
    """Tokenise and shard in a session of its own, which is started only where there is something to do."""

    def run_units(work: Work, units: Sequence[Unit]) -> Iterator[UnitResult]:
        with session(config, settings, address):
            yield from run_units_on_ray(work, units)

    return prepare_on_ray(config, run_units)


@contextmanager
def _sender(config: RunConfig) -> Iterator[None]:
    """The process that brings the journal to MLflow, for the length of the block; its end is waited for."""
    process = start_sender(Path(config.out_dir), config.monitoring)
    try:
        yield
    finally:
        if finish_sender(process) != 0:
            logger.warning("MLflow has not everything yet; `headrace dashboard` brings the rest from the journal")


@contextmanager
def _stop_on_signal(out_dir: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the run to save at the next step border and end; a second one ends the driver at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        logger.warning("stopping at the next step border, with a checkpoint; once more ends at once")
        stop_mark(out_dir).touch()
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(gang: Future[dict[str, Any]], launch: Launch, reader: JournalReader) -> dict[str, Any]:
    """Show the journal until the gang has ended; its verdict."""
    total = launch.total_steps * launch.config.tokens_per_step
    with ProgressView(total) as view:
        while True:
            view.feed(reader.poll())
            try:
                verdict = gang.result(timeout=POLL_SECONDS)
            except TimeoutError:
                continue
            view.feed(reader.poll())
            return verdict


def train_on_ray(
    config: RunConfig,
    settings: ClusterSettings,
    resources: Resources,
    dataset: Dataset,
    *,
    accept_changes: bool,
    project: Path,
) -> DriveResult:
    """Train the run to its end, from wherever it is.

    Raises:
        TrainError: what only a rank could find wrong with the input.
        RunFailedError: the gang gave up.
    """
    launch = open_launch(config, dataset, accept_changes)
    out_dir = Path(config.out_dir)
    if finished_step(out_dir) == launch.total_steps:
        return DriveResult("already finished", launch)
    run_spec = {
        **launch.run_spec(provenance_tags(project)),
        "out_dir": config.out_dir,
        "device": "cuda" if resources.gpus_per_worker else "cpu",
        "threads": resources.threads,
    }
    spec = make_gang_spec(config.name, config.out_dir, run_spec, settings)
    reader = JournalReader(out_dir)
    reader.poll()
    logger.info("starting %d workers on %s", resources.workers, "GPUs" if resources.gpus_per_worker else "CPUs")
    with _sender(config), _stop_on_signal(out_dir), ThreadPoolExecutor(1, "gang") as pool:
        # In a thread of its own: in the main one Ray Train would take over Ctrl-C.
        verdict = _watch(pool.submit(run_gang, spec, settings, resources), launch, reader)
        if verdict["status"] == "failed":
            append_event(out_dir, newest_attempt(out_dir), "end", status="failed", **_last_place(out_dir))
    if verdict["status"] == "failed":
        if verdict["kind"] == "input":
            raise TrainError(verdict["text"])
        raise RunFailedError(verdict["text"])
    return DriveResult(verdict["status"], launch)


def _last_place(out_dir: Path) -> dict[str, int]:
    """Step and tokens of the newest step in the journal."""
    steps = last_values(read_records(out_dir))
    newest = steps[max(steps)] if steps else {"step": 0, "tokens": 0}
    return {"step": newest["step"], "tokens": newest["tokens"]}
