"""From a run file and a dataset to what every attempt of the run is told; shared by all ways of starting a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_shards.dataset import Dataset
from model.settings import resolve
from monitoring.journal import last_values, read_records
from monitoring.runs import create_run_folder, read_run_folder
from trainer.batch import plan_batch
from trainer.callbacks import load_callbacks
from trainer.changes import Change, check_changes
from trainer.config import RunConfig, dump_run_file, parse_run_file
from trainer.errors import TrainError
from trainer.faults import faults_of_environment
from trainer.length import check_repetitions, planned_length
from trainer.stages import stage_ends
from trainer.stop import clear_marks
from trainer.zero import check_passthrough

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Launch:
    """A run that is ready to start or to go on."""

    config: RunConfig
    run_id: str
    dataset: Dataset
    total_steps: int
    total_tokens: int
    is_finished: bool
    changes: tuple[Change, ...]

    def run_spec(self, tags: Mapping[str, str]) -> dict[str, Any]:
        """What `trainer.rank.main` needs beyond rank, world size, attempt and meeting place; plain values.

        Raises:
            TrainError: HEADRACE_FAULTS asks for faults that there are not.
        """
        changed = {"accepted_changes": "; ".join(map(str, self.changes))} if self.changes else {}
        return {
            "config": self.config.model_dump(mode="json"),
            "run_id": self.run_id,
            "dataset_fingerprint": self.dataset.fingerprint,
            "tags": {**tags, **changed},
            "faults": faults_of_environment(),
        }


def check_before_start(config: RunConfig, world_size: int) -> None:
    """Refuse what is impossible before anything is tokenised or started.

    Raises:
        TrainError, ModelError, DataError: naming the field, the rule and the value found.
    """
    load_callbacks(config)
    check_passthrough(config.train.deepspeed)
    plan_batch(config.train.global_batch_size, config.train.micro_batch_size, world_size)
    _check_writable("out_dir", Path(config.out_dir))
    if isinstance(config.checkpoint_dir, Path):
        _check_writable("checkpoint.dir", config.checkpoint_dir)


def _check_writable(field: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise TrainError(
            f"{field}: {folder} must be a folder that can be written, but: {error.strerror}. Give another {field}, "
            f"or change its permissions."
        ) from error


def open_launch(config: RunConfig, dataset: Dataset, accept_changes: bool, run_id: str | None = None) -> Launch:
    """Make or find the run's folder. A run that was started before keeps its id, and what it was started with.

    run_id: for a run that has none yet; None: a new one is made.

    Raises:
        TrainError: the run file changed in a way that a resume cannot take, or no step fits the length asked for.
        DataError: the run would repeat a source more often than its max_passes.
    """
    out_dir = Path(config.out_dir)
    dataset = _dataset_of_first_start(out_dir, dataset)
    model_config = resolve(config.model, dataset.vocab_size, config.train.activation_checkpointing)
    done = last_place(out_dir)
    if config.init_from is not None and done == (0, 0):
        from trainer.init_from import check_origin  # here and below: it loads torch, which most drivers can do without

        check_origin(config.init_from, model_config, dataset)
    length = planned_length(config, dataset, done)
    steps, total_tokens = length.total_steps, length.tokens_at(length.total_steps)
    check_repetitions(config, dataset, total_tokens)
    if config.train.names_parameters:
        from trainer.freezing import check_patterns

        check_patterns(model_config, config.train)
    stage_ends(config.train, length)
    changes: tuple[Change, ...] = ()
    if (out_dir / "run.json").exists():
        before = parse_run_file(read_run_folder(out_dir).run_file.read_text(), str(out_dir / "run.yaml"))
        changes = tuple(check_changes(before, config, accept_changes))
    run = create_run_folder(out_dir, run_id, config.name, dump_run_file(config))
    clear_marks(out_dir)
    is_finished = _has_finished(out_dir) and steps == done[0]
    return Launch(config, run.run_id, dataset, steps, total_tokens, is_finished, changes)


def _dataset_of_first_start(out_dir: Path, newest: Dataset) -> Dataset:
    """The version of the dataset that the run began with; a corpus that changed since makes a newer one."""
    starts = (record for record in read_records(out_dir) if record.get("event") == "start")
    first = next(starts, None)
    fingerprint = first["tags"]["dataset.fingerprint"] if first else newest.fingerprint
    if fingerprint == newest.fingerprint:
        return newest
    logger.warning(
        "the corpus has changed since the run's first start; it goes on with the version that it began with (%s)",
        fingerprint[:16],
    )
    return Dataset.open(newest.dir, fingerprint)


def last_place(out_dir: Path) -> tuple[int, int]:
    """Step and tokens of the newest step in the journal; zeros where there is none."""
    steps = last_values(read_records(out_dir))
    if not steps:
        return 0, 0
    newest = steps[max(steps)]
    return newest["step"], newest["tokens"]


def _has_finished(out_dir: Path) -> bool:
    ends = [record for record in read_records(out_dir) if record.get("event") == "end"]
    return bool(ends) and ends[-1]["status"] == "finished"
