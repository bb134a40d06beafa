"""An exported model into the run's journal, and so into MLflow."""

from __future__ import annotations

import logging
from pathlib import Path

from cluster.gang_journal import append_event
from data_shards.task_settings import ClassTask
from monitoring.errors import MonitoringError
from monitoring.forward import import_journal
from monitoring.journal import read_records
from trainer.attempts import newest_attempt
from trainer.config import RunConfig
from trainer.trained import Trained

logger = logging.getLogger(__name__)


def log_exported(config: RunConfig, trained: Trained, model_dir: Path) -> None:
    """Log the exported model with the run's page in MLflow, once for each checkpoint.

    The journal has it first: where MLflow is away, that is told, and the next `headrace sync` sends it.
    """
    out_dir, checkpoint = Path(config.out_dir), str(trained.choice.address).rpartition("/")[2]
    told = (record for record in read_records(out_dir) if record.get("event") == "model")
    if any(record["checkpoint"] == checkpoint for record in told):
        return
    append_event(
        out_dir,
        newest_attempt(out_dir),
        "model",
        step=trained.step,
        path=str(model_dir.absolute()),
        checkpoint=checkpoint,
        texts=model_texts(config, trained.dataset.classes),
    )
    try:
        import_journal(out_dir, config.monitoring.tracking_uri, config.monitoring.experiment)
    except MonitoringError as error:
        logger.warning("%s (`headrace sync %s` sends the model later)", error, out_dir)


def model_texts(config: RunConfig, classes: tuple[str, ...]) -> list[str]:
    """Names of the texts that the model takes: a prompt, or what is to be classified."""
    if not classes:
        return ["prompt"]
    task = config.data.task
    return ["text", "pair"] if isinstance(task, ClassTask) and task.pair is not None else ["text"]
