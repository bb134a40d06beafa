"""The driver of a run: prepare, train under a gang, evaluate and export; the thread that shows how it goes."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from cluster.gang import Verdict, make_gang_spec, run_gang
from cluster.gang_journal import append_event
from cluster.prepare_view import PrepareView
from cluster.ray_session import check_address, cluster_total, ray_session
from cluster.settings import ClusterSettings, Resources, check_fits, parse_cluster, resolve_resources
from cluster.shared_folder import check_shared
from cluster.spec import GangSpec
from cluster.unit_runner import Work, run_units_on_ray
from data_shards.dataset import Dataset
from data_shards.prepare import prepare
from data_shards.sources import expand
from data_shards.units import Unit
from data_shards.worker import UnitResult
from monitoring.journal import JournalReader
from monitoring.progress import ProgressView
from monitoring.sender import finish_sender, start_sender
from trainer.attempts import newest_attempt
from trainer.config import RunConfig
from trainer.errors import TrainError
from trainer.launch import Launch, check_before_start, last_place, open_launch
from trainer.precision import resolve_precision
from trainer.provenance import provenance_tags
from trainer.run_lock import run_lock
from trainer.stop import stop_mark

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
UNANSWERED_STOP_SECONDS = 120.0


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
        ClusterError, TrainError, DataError, ModelError: naming the field, the rule and the value found.
    """
    settings = parse_cluster(config.cluster, where)
    if address is not None:
        check_address(address)
    world_size = settings.workers if isinstance(settings.workers, int) else 1
    check_before_start(config, world_size)
    for source in (*config.data.sources, *(config.data.val_sources or ())):
        expand(source)
    if address is None and (settings.gpus_per_worker == 0 or not any(Path("/dev").glob("nvidia[0-9]*"))):
        resolve_precision(config.train.precision, "cpu", has_bf16=True)
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
        check_before_start(config, resources.workers)
        check_shared([Path(config.out_dir), config.data_dir])
        yield resources


class LazySession:
    """A session that is started when something first needs Ray, and ends with the block."""

    def __init__(self, config: RunConfig, settings: ClusterSettings, address: str | None) -> None:
        self._start = partial(session, config, settings, address)
        self._stack = ExitStack()
        self._resources: Resources | None = None

    def __enter__(self) -> LazySession:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @property
    def started(self) -> bool:
        """Whether anything has needed Ray yet."""
        return self._resources is not None

    def resources(self) -> Resources:
        """What the gang will ask of Ray, which is joined or started by now."""
        if self._resources is None:
            self._resources = self._stack.enter_context(self._start())
        return self._resources

    def run_units(self, work: Work, units: Sequence[Unit]) -> Iterator[UnitResult]:
        """Units of a corpus as tasks of Ray Data."""
        self.resources()
        return run_units_on_ray(work, units)


def prepare_lazily(config: RunConfig, lazy: LazySession) -> Dataset:
    """Tokenise and shard; starts nothing and writes nothing where nothing is to be done."""
    with PrepareView() as view:
        return prepare(
            config.data,
            dir=config.data_dir,
            min_val_tokens=config.seq_len + 1,
            run_units=lazy.run_units,
            progress=view.show,
        )


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


def _start_gang(spec: GangSpec, settings: ClusterSettings, resources: Resources, is_local: bool) -> Future[Verdict]:
    """Run the gang in a thread of its own: in the main one Ray Train would take over Ctrl-C.

    The thread is a daemon, so that a gang that never comes to its end does not hold the driver.
    """
    future: Future[Verdict] = Future()

    def run() -> None:
        try:
            future.set_result(run_gang(spec, settings, resources, is_local))
        except BaseException as error:  # noqa: BLE001  it is raised again by whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name="gang", daemon=True).start()
    return future


def _watch(gang: Future[Verdict], launch: Launch, reader: JournalReader) -> Verdict:
    """Show the journal until the gang has ended; its verdict. A stop that no rank answers ends the run as failed."""
    mark, heard = stop_mark(Path(launch.config.out_dir)), time.monotonic()
    with ProgressView(launch.total_tokens) as view:
        while True:
            done, _ = wait([gang], timeout=POLL_SECONDS)
            records = reader.poll()
            view.feed(records)
            if done:
                return gang.result()
            if records or not mark.exists():
                heard = time.monotonic()
            elif time.monotonic() - heard > UNANSWERED_STOP_SECONDS:
                text = f"no rank answered the request to stop within {UNANSWERED_STOP_SECONDS:.0f} s"
                return {"status": "failed", "kind": "infrastructure", "text": text}


def train_on_ray(
    config: RunConfig,
    settings: ClusterSettings,
    lazy: LazySession,
    dataset: Dataset,
    *,
    accept_changes: bool,
    project: Path,
    is_local: bool,
) -> DriveResult:
    """Train the run to its end, from wherever it is.

    Raises:
        TrainError: what only a rank could find wrong with the input.
        RunFailedError: the gang gave up.
    """
    with run_lock(Path(config.out_dir)):
        launch = open_launch(config, dataset, accept_changes)
        if launch.is_finished:
            return DriveResult("already finished", launch)
        verdict = _train(launch, settings, lazy.resources(), provenance_tags(project), is_local)
    if verdict["status"] == "failed":
        if verdict["kind"] == "input":
            raise TrainError(verdict["text"])
        raise RunFailedError(verdict["text"])
    return DriveResult(verdict["status"], launch)


def _train(
    launch: Launch, settings: ClusterSettings, resources: Resources, tags: Mapping[str, str], is_local: bool
) -> Verdict:
    config, out_dir = launch.config, Path(launch.config.out_dir)
    run_spec = {
        **launch.run_spec(tags),
        "out_dir": config.out_dir,
        "device": "cuda" if resources.gpus_per_worker else "cpu",
        "threads": resources.threads,
    }
    spec = make_gang_spec(config.name, config.out_dir, run_spec, settings)
    reader = JournalReader(out_dir)
    reader.poll()
    logger.info("starting %d workers on %s", resources.workers, "GPUs" if resources.gpus_per_worker else "CPUs")
    with _sender(config), _stop_on_signal(out_dir):
        verdict = _watch(_start_gang(spec, settings, resources, is_local), launch, reader)
        if verdict["status"] == "failed" and newest_attempt(out_dir) > 0:
            step, tokens = last_place(out_dir)
            append_event(out_dir, newest_attempt(out_dir), "end", status="failed", step=step, tokens=tokens)
    return verdict
