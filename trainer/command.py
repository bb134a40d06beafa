"""`python -m trainer FILE.yaml`, `torchrun -m trainer FILE.yaml`: train without Ray, through the gang's own entry."""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.distributed import HashStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from data_shards.errors import DataError
from data_shards.prepare import prepare, run_units_serially
from model.errors import ModelError
from monitoring.errors import MonitoringError
from monitoring.journal import attempt_path
from monitoring.system_metrics import node_monitoring
from trainer.attempts import take_attempt
from trainer.carried_code import carry_code
from trainer.config import RunConfig, load_run_file
from trainer.errors import BadNumbersError, TrainError
from trainer.launch import check_before_start, open_launch
from trainer.provenance import provenance_tags
from trainer.rank import USER_ERROR_STATUS, main
from trainer.run_lock import run_lock

logger = logging.getLogger("trainer")

SPEC_KEY = "headrace/spec"
FAILED_STATUS = 1
INTERRUPTED_STATUS = 130
PREPARE_DEADLINE = timedelta(hours=12)


def _prepared_spec(options: argparse.Namespace, world_size: int, held: ExitStack) -> dict[str, Any] | None:
    """What all ranks are told once the dataset is there; None where the run is finished. `held` keeps its lock."""
    config = load_run_file(options.file, options.set)
    check_before_start(config, world_size)
    config = carry_code(config)
    held.enter_context(run_lock(Path(config.out_dir)))
    dataset = prepare(config.data, dir=config.data_dir, min_val_tokens=config.seq_len + 1, run_units=run_units_serially)
    launch = open_launch(config, dataset, options.accept_changes)
    out_dir = Path(config.out_dir)
    if launch.is_finished:
        return None
    attempt = take_attempt(out_dir)
    tags = provenance_tags(options.file.resolve().parent)
    return {**launch.run_spec(tags), "attempt": attempt, "journal_path": str(attempt_path(out_dir, attempt))}


def _told_by_first(
    options: argparse.Namespace, rank: int, store: Store, world_size: int, held: ExitStack
) -> dict[str, Any] | None:
    """Rank 0 prepares; the others wait on the launcher's store until it has, or until it says what is wrong."""
    if rank > 0:
        told = json.loads(store.get(SPEC_KEY))
    else:
        told = {"spec": None, "error": "rank 0 could not prepare the run; its own message says why"}
        try:
            told = {"spec": _prepared_spec(options, world_size, held), "error": None}
        finally:
            store.set(SPEC_KEY, json.dumps(told))
    if told["error"]:
        raise TrainError(told["error"])
    told_spec: dict[str, Any] | None = told["spec"]
    return told_spec


def _meeting_place() -> tuple[Store, int, int]:
    """Store, rank and world size, of torchrun's environment where there is one."""
    if "RANK" not in os.environ:
        return HashStore(), 0, 1
    store, rank, world_size = next(iter(rendezvous("env://")))
    store.set_timeout(PREPARE_DEADLINE)
    return store, rank, world_size


def command() -> int:
    """The command as a shell calls it: `run`, and 130 where it is interrupted before training."""
    try:
        return run()
    except KeyboardInterrupt:
        logger.error("interrupted before training")
        return INTERRUPTED_STATUS


def run(arguments: list[str] | None = None) -> int:
    """Parse and train; exit status 0 done, 1 failed, 2 wrong input, 3 stopped with a checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    parser.add_argument("file", type=Path, help="run file, such as recipes/demo.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a field of the run file")
    parser.add_argument("--accept-changes", action="store_true", help="resume with a changed length, lr or batch")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    with ExitStack() as held:
        return _run(options, held)


def _run(options: argparse.Namespace, held: ExitStack) -> int:
    store, rank, world_size = _meeting_place()
    try:
        spec = _told_by_first(options, rank, store, world_size, held)
    except (TrainError, DataError, ModelError, MonitoringError) as error:
        logger.error("%s", error)
        return USER_ERROR_STATUS
    if spec is None:
        logger.info("the run in %s is finished; nothing to do", load_run_file(options.file, options.set).out_dir)
        return 0
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    return _train({**spec, "rank": rank, "world_size": world_size, "local_rank": local_rank, "store": store})


def _train(spec: dict[str, Any]) -> int:
    monitoring = spec["config"]["monitoring"]
    seconds = monitoring["system_metrics_seconds"] if spec["local_rank"] == 0 else None
    try:
        with node_monitoring(Path(spec["config"]["out_dir"]), socket.gethostname(), seconds):
            status = main(spec)
    except BadNumbersError as error:
        logger.error("%s", error)
        return FAILED_STATUS
    if spec["rank"] == 0 and status != USER_ERROR_STATUS:
        _bring_to_mlflow(RunConfig.model_validate(spec["config"]))
    return status


def _bring_to_mlflow(config: RunConfig) -> None:
    """The whole journal at once; a store that is away does not undo the training."""
    from monitoring.forward import import_journal  # MLflow takes two seconds, which nobody waits for before training

    try:
        import_journal(Path(config.out_dir), config.monitoring.tracking_uri, config.monitoring.experiment)
    except MonitoringError as error:
        logger.warning("%s (`headrace sync %s` sends the metrics from the journal later)", error, config.out_dir)
