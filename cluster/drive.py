"""The driver of a training: its gangs and the sender of its journal, for one driver of the run at a time."""

from __future__ import annotations

import logging
import secrets
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from cluster.gang import make_gang_spec
from cluster.gang_journal import append_event
from cluster.gang_loop import GangLoop, limits_of
from cluster.jobs.time_in_line import TimeInLine, tell_time_in_line
from cluster.restarts import Finish, GiveUp
from cluster.session import LazySession
from cluster.settings import ClusterSettings, Resources
from cluster.snapshot_keeper_actor import SnapshotKeepers
from cluster.spec import GangSpec
from data_shards.dataset import Dataset
from monitoring.journal import read_records
from monitoring.sender import finish_sender, start_sender
from trainer.attempts import newest_attempt
from trainer.config import RunConfig
from trainer.errors import TrainError
from trainer.launch import Launch, last_place, open_launch
from trainer.provenance import provenance_tags
from trainer.run_lock import run_lock
from trainer.stop import ask_to_stop

logger = logging.getLogger(__name__)


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
            logger.warning("MLflow has not everything yet; `headrace sync %s` sends the rest", config.out_dir)


@contextmanager
def _stop_on_signal(out_dir: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the run to save at the next step border and end; a second one ends the driver at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_DFL)
        logger.warning("stopping at the next step border, with a checkpoint; once more ends at once")
        try:
            ask_to_stop(out_dir)
        except OSError as error:
            logger.error("the run cannot be asked to stop (%s); once more ends at once, without a checkpoint", error)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_on_ray(
    config: RunConfig,
    settings: ClusterSettings,
    lazy: LazySession,
    dataset: Dataset,
    *,
    accept_changes: bool,
    project: Path,
    is_local: bool,
    profile_steps: int | None = None,
    run_id: str | None = None,
    commit: str | None = None,
    in_line: TimeInLine | None = None,
) -> DriveResult:
    """Train the run to its end, from wherever it is; with `profile_steps` profile so many, and tell MLflow nothing.

    Args:
        run_id: the id of a run that was submitted and has none in its folder yet; commit: of the project that it was
            submitted from, where `project` is no checkout; in_line: how long a submission waited for its turn.

    Raises:
        TrainError: what only a rank could find wrong with the input.
        RunFailedError: the gang gave up.
    """
    with run_lock(Path(config.out_dir)):
        launch = open_launch(config, dataset, accept_changes, run_id)
        if launch.is_finished:
            return DriveResult("already finished", launch)
        if in_line is not None:
            tell_time_in_line(Path(config.out_dir), in_line)
        tags = provenance_tags(project) | ({"git.commit": commit} if commit else {})
        end = _train(launch, settings, lazy.resources(), tags, is_local, profile_steps)
    if isinstance(end, Finish):
        return DriveResult(end.status, launch)
    if end.kind == "input":
        raise TrainError(end.text)
    raise RunFailedError(end.text)


def _train(
    launch: Launch,
    settings: ClusterSettings,
    resources: Resources,
    tags: Mapping[str, str],
    is_local: bool,
    profile_steps: int | None,
) -> Finish | GiveUp:
    config, out_dir = launch.config, Path(launch.config.out_dir)
    run_spec = {
        **launch.run_spec(tags),
        "out_dir": config.out_dir,
        "device": "cuda" if resources.gpus_per_worker else "cpu",
        "threads": resources.threads,
        "profile_steps": profile_steps,
    }

    token = secrets.token_hex(16)

    def make_spec(max_failures: int) -> GangSpec:
        seconds = config.monitoring.system_metrics_seconds
        return make_gang_spec(
            config.name, config.out_dir, run_spec, settings.hang_seconds, max_failures, token, seconds
        )

    limits = limits_of(settings, resources)
    with _sender(config) if profile_steps is None else nullcontext(), _stop_on_signal(out_dir):
        keepers = SnapshotKeepers(config.name, token, is_local)
        end = GangLoop(out_dir, make_spec, limits, resources, keepers, is_local=is_local).run(launch.total_tokens)
        if not isinstance(end, GiveUp):
            _tell_end(out_dir, end.status)
        elif end.kind != "fenced":  # the run is another driver's by now
            _tell_end(out_dir, "failed")
    return end


def _tell_end(out_dir: Path, status: str) -> None:
    """Put the run's end into the journal where no rank has done so: it failed, or was stopped without a gang."""
    attempt = newest_attempt(out_dir)
    if attempt == 0 or status == "finished":
        return
    ends = [record["attempt"] for record in read_records(out_dir) if record.get("event") == "end"]
    if status == "failed" or attempt not in ends:
        step, tokens = last_place(out_dir)
        append_event(out_dir, attempt, "end", status=status, step=step, tokens=tokens)
