"""The MLflow side: one MLflow run per Headrace run, found by the tag `headrace.run_id`."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

# MLflow reads some of these at import. A call must not block for minutes where the server is away (the default is 247 s
# of retries), and nothing may be reported to anyone.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType  # noqa: E402
from mlflow.exceptions import MlflowException as MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient as MlflowClient  # noqa: E402
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from monitoring.errors import MonitoringError  # noqa: E402
from monitoring.translate import RUN_ID_TAG, DatasetUse, ExportedModel, Update  # noqa: E402

_METRICS_PER_CALL = 1000  # MLflow's limit
_TEXTS_PER_CALL = 20  # keeps a call with the longest values under MLflow's limit of 1 MB

# What MLflow's client raises where the store is away, locked or refuses: mostly its own exception; SQLAlchemy's while a
# database is opened; the operating system's (and requests', which are of that kind) for artefacts.
StoreErrors = (MlflowException, SQLAlchemyError, OSError)

# The client's own tries again are no news: whoever calls it says once that the store is away.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

T = TypeVar("T")


class MlflowRun:
    """The MLflow run of one Headrace run, in one store. For one process at a time."""

    def __init__(self, client: MlflowClient, tracking_uri: str, mlflow_run_id: str) -> None:
        """Use `MlflowRun.open`."""
        self._client = client
        self._tracking_uri = tracking_uri
        self.mlflow_run_id = mlflow_run_id
        self._params = dict(client.get_run(mlflow_run_id).data.params)

    @classmethod
    def open(cls, tracking_uri: str, experiment: str, run_id: str, name: str, start_time_ms: int) -> MlflowRun:
        """Finds the run by its tag in the experiment of that name; makes what is absent.

        MonitoringError if the experiment was deleted in MLflow; one of `StoreErrors` if the store cannot be used.
        """
        with one_writer(tracking_uri):
            client = MlflowClient(tracking_uri=tracking_uri)
            experiment_id = _experiment_id(client, tracking_uri, experiment)
            found = client.search_runs(
                [experiment_id], f"tags.`{RUN_ID_TAG}` = '{run_id}'", ViewType.ACTIVE_ONLY, max_results=1
            )
            run = found[0] if found else None
            if run is None:
                tags = {RUN_ID_TAG: run_id}
                run = client.create_run(experiment_id, start_time=start_time_ms, tags=tags, run_name=name)
            return cls(client, tracking_uri, run.info.run_id)

    def send(self, update: Update) -> None:
        """Writes an update. Safe to repeat after a failure: MLflow stores equal points once.

        Parameters cannot change in MLflow: a new value of one goes into the tag `headrace.changed.KEY`.
        """
        with one_writer(self._tracking_uri):
            new = {key: value for key, value in update.params.items() if key not in self._params}
            changed = {key: value for key, value in update.params.items() if self._params.get(key, value) != value}
            tags = {**update.tags, **{f"headrace.changed.{key}"[:250]: value for key, value in changed.items()}}
            self._send_params(new)
            for some_tags in _chunks([RunTag(key, value) for key, value in tags.items()], _TEXTS_PER_CALL):
                self._client.log_batch(self.mlflow_run_id, tags=some_tags)
            metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in update.points]
            for some_metrics in _chunks(metrics, _METRICS_PER_CALL):
                self._client.log_batch(self.mlflow_run_id, metrics=some_metrics)
            if update.datasets:  # a dataset of the same name and digest is kept once
                self._client.log_inputs(self.mlflow_run_id, [_dataset_input(use) for use in update.datasets])
            if update.run_file is not None:
                self._client.log_text(self.mlflow_run_id, update.run_file, "run.yaml")
            self._set_status(update)

    def add_file(self, path: Path) -> None:
        """Stores a file as an artefact under its own name; replaces an older one."""
        with one_writer(self._tracking_uri):
            self._client.log_artifact(self.mlflow_run_id, str(path))

    def add_model(self, exported: ExportedModel) -> None:
        """Logs an exported model as an MLflow model named `model`, unless the run has that one already."""
        # Imported here: MLflow's models and what they import take a second that no other update needs.
        from monitoring.model_package import log_model

        log_model(self._client, self.mlflow_run_id, exported, partial(one_writer, self._tracking_uri))

    def _send_params(self, params: dict[str, str]) -> None:
        for some in _chunks([Param(key, value) for key, value in params.items()], _TEXTS_PER_CALL):
            self._client.log_batch(self.mlflow_run_id, params=some)
        self._params |= params

    def _set_status(self, update: Update) -> None:
        if update.status == "RUNNING":
            self._client.update_run(self.mlflow_run_id, status="RUNNING")
        elif update.status is not None:
            self._client.set_terminated(self.mlflow_run_id, update.status, update.end_time_ms)


def _dataset_input(use: DatasetUse) -> DatasetInput:
    dataset = Dataset(use.name, use.digest, use.source_type, use.source, use.schema, use.profile)
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, use.context)])


@contextmanager
def one_writer(tracking_uri: str) -> Iterator[None]:
    """Keeps other senders out of an SQLite store, which takes one writer at a time; a server needs no such thing."""
    path = sqlite_path(tracking_uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sqlite_path(tracking_uri: str) -> Path | None:
    """The file of an SQLite store; None if the address is of another kind."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    return Path(tracking_uri.removeprefix("sqlite:///"))


def artifact_root(tracking_uri: str) -> str | None:
    """Where a new experiment's artefacts go: `mlartifacts` beside an SQLite file; None: the server decides."""
    path = sqlite_path(tracking_uri)
    return None if path is None else (path.absolute().parent / "mlartifacts").as_uri()


def _experiment_id(client: MlflowClient, tracking_uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_root(tracking_uri)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another sender was faster
    if found.lifecycle_stage != "active":
        raise MonitoringError(
            f"monitoring.experiment: must be an experiment that is not deleted, found {name!r}, which was deleted in "
            f"{tracking_uri}; restore it there (`mlflow experiments restore`) or give another name"
        )
    return str(found.experiment_id)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
