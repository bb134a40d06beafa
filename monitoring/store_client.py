"""A store of any kind through MLflow's client: servers, other databases, and filters that MLflow alone can read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monitoring.errors import MonitoringError
from monitoring.mlflow_store import MlflowClient, MlflowException, StoreErrors
from monitoring.stored_run import POINT, Points, StoredRun, to_points

_RUNS_PER_CALL = 1000


class ClientStore:
    """As `monitoring.stored_run.Store`."""

    def __init__(self, tracking_uri: str) -> None:
        """Opens nothing yet."""
        self._uri = tracking_uri

    def search(self, text: str) -> list[StoredRun]:
        """The runs that the filter finds, of all experiments, newest first; MonitoringError for a wrong filter."""
        try:
            client = MlflowClient(tracking_uri=self._uri)
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            return [_stored(run) for run in _all_pages(client, experiments, text)]
        except MlflowException as error:
            raise MonitoringError(
                f"--search: must be a filter that MLflow takes, as params.`train.lr` = '0.001', found {text!r}, of "
                f"which it says: {error}"
            ) from error
        except StoreErrors as error:
            raise self._away(error) from error

    def points(self, runs: Sequence[StoredRun], keys: Sequence[str]) -> dict[str, Points]:
        """The values of metrics of those runs, a call for each run and metric."""
        try:
            client = MlflowClient(tracking_uri=self._uri)
            return {key: self._points(client, runs, key) for key in keys}
        except StoreErrors as error:
            raise self._away(error) from error

    def _points(self, client: MlflowClient, runs: Sequence[StoredRun], key: str) -> Points:
        parts = [np.empty(0, POINT)]
        for index, run in enumerate(runs):
            found = client.get_metric_history(run.mlflow_run_id, key)
            parts.append(
                to_points(
                    [index] * len(found),
                    [metric.step for metric in found],
                    [metric.timestamp for metric in found],
                    [metric.value for metric in found],
                )
            )
        return np.concatenate(parts)

    def _away(self, error: Exception) -> MonitoringError:
        return MonitoringError(f"--tracking-uri: must be a store that can be read, found {self._uri!r}: {error}")


def _all_pages(client: MlflowClient, experiments: list[str], text: str) -> list[Any]:
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs(experiments, text, max_results=_RUNS_PER_CALL, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _stored(run: Any) -> StoredRun:
    info = run.info
    name = info.run_name or info.run_id
    return StoredRun(info.run_id, name, info.status, info.end_time, dict(run.data.params), dict(run.data.tags))
