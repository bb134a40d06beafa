"""The driver of a training: the gang, the sender of its journal, the thread that shows how it goes."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from cluster.gang import Verdict, make_gang_spec, run_gang
from cluster.gang_journal import append_event
from cluster.session import LazySession
from cluster.settings import ClusterSettings, Resources
from cluster.spec import GangSpec
from data_shards.dataset import Dataset
from monitoring.journal import JournalReader
from monitoring.progress import ProgressView
from monitoring.sender import finish_sender, start_sender
from trainer.attempts import newest_attempt
from trainer.config import RunConfig
from trainer.errors import TrainError
from trainer.launch import Launch, last_place, open_launch
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
