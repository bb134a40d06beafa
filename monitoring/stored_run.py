"""What is read of an MLflow store: runs, and the values of their metrics. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.translate import RUN_ID_TAG

POINT = np.dtype([("run", np.int64), ("step", np.int64), ("time_ms", np.int64), ("value", np.float64)])
"""A value of a metric. run: the place among the runs asked for."""

Points = NDArray[np.void]  # [n] of POINT

_LARGEST = 1.7976931348623157e308  # what MLflow stores for infinity


@dataclass(frozen=True)
class StoredRun:
    """A run as MLflow has it."""

    mlflow_run_id: str
    name: str
    status: str  # MLflow's word
    end_time_ms: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]

    @property
    def run_id(self) -> str:
        """Headrace's id; MLflow's own for a run that another program wrote."""
        return self.tags.get(RUN_ID_TAG, self.mlflow_run_id)


class Store(Protocol):
    """What a comparison asks of a store."""

    def search(self, text: str) -> list[StoredRun]:
        """The runs that MLflow's filter finds, of all experiments, newest first; MonitoringError for a wrong one."""

    def points(self, runs: Sequence[StoredRun], keys: Sequence[str]) -> dict[str, Points]:
        """The values of metrics of those runs, by metric, in no order."""


def to_points(run: ArrayLike, step: ArrayLike, time_ms: ArrayLike, value: ArrayLike) -> Points:
    """Columns as points; the largest values that there are are MLflow's infinities."""
    values = np.asarray(value, np.float64)
    points = np.empty(len(values), POINT)
    points["run"], points["step"], points["time_ms"], points["value"] = run, step, time_ms, values
    is_infinite = np.abs(points["value"]) >= _LARGEST
    points["value"][is_infinite] = np.sign(points["value"][is_infinite]) * np.inf
    return points
